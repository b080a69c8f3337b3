#include "runtime/cli.h"

int main(int argc, char** argv) { return tandem::RunProgram(argc, argv); }
