#pragma once

#include "cl_kernels/args.h"
#include "cl_kernels/programs.h"

namespace tandem::cl {

// step_feed.cl
void LaunchFeedTake(Programs& programs, const FeedTakeArgs& a);
void LaunchArgmaxPublish(Programs& programs, const ArgmaxPublishArgs& a);

}  // namespace tandem::cl
