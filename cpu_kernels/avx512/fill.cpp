#include "cpu_kernels/kernel_table.h"
