#include "memory/cl_check.h"
#include "runtime/cli.h"

int main(int argc, char** argv) {
  tandem::AnswerClCheck();
  return tandem::RunProgram(argc, argv);
}
