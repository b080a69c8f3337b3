#pragma once

#include <CL/cl.h>

#include <string>
#include <vector>

#include "memory/cl_device.h"

namespace tandem {

// The enumeration behind ProbeClDevices and ClDevice. These call OpenCL in this process.

// Empty where the loader has no platform; throws OpenClError for any other failure.
std::vector<cl_platform_id> ListClPlatforms();
// Empty where the platform has no device; throws OpenClError for any other failure.
std::vector<cl_device_id> ListClDevices(cl_platform_id platform);
// Empty where the device does not answer.
std::string ClDeviceString(cl_device_id device, cl_device_info what);

// The list itself, with `problem` set where a platform fails.
ClProbe ListAllClDevices();

// A driver that is open in this process does not survive a fork: from here on ProbeClDevices
// repeats what it found last.
void NoteClDeviceOpened();

}  // namespace tandem
