#pragma once

#include <string>

#include "memory/cl_device.h"

namespace tandem {

// A process of its own opens the device, writes and reads a buffer there, and ends. This process
// cannot tell: it has lost the device, and a driver that is open does not survive a fork. Empty if
// all went well within `limit`, else what went wrong. In a program that did not call
// AnswerClCheck there is nothing to start, and the answer is empty.
std::string CheckClDeviceInChild(const ClDeviceInfo& info, Seconds limit);

// At the start of `main`: where this process is such a child, does its work and exits.
void AnswerClCheck();

}  // namespace tandem
