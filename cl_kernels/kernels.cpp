#include "cl_kernels/kernels.h"

#include <utility>

#include "cl_kernels/argmax.h"
#include "cl_kernels/attention.h"
#include "cl_kernels/device_traits.h"
#include "cl_kernels/elementwise.h"
#include "cl_kernels/experts.h"
#include "cl_kernels/gemm.h"
#include "cl_kernels/group.h"
#include "cl_kernels/hand_over.h"
#include "cl_kernels/kv_append.h"
#include "cl_kernels/linear.h"
#include "cl_kernels/mla.h"
#include "cl_kernels/mla_expanded.h"
#include "cl_kernels/panel_split.h"
#include "cl_kernels/panels.h"
#include "cl_kernels/programs.h"
#include "cl_kernels/rmsnorm.h"
#include "cl_kernels/rope.h"
#include "cl_kernels/router.h"
#include "cl_kernels/router_shared.h"
#include "cl_kernels/step_feed.h"
#include "cl_kernels/tunables.h"
#include "memory/file.h"

namespace tandem::cl {

namespace {

TunedShapes ShapesBeside(const std::filesystem::path& cache_dir, const ClDeviceInfo& device) {
  if (cache_dir.empty()) return {};
  return Checked(LoadShapes(cache_dir.parent_path() / "shapes", device), device);
}

}  // namespace

struct Kernels::Impl {
  TunedShapes shapes;
  Programs programs;
};

Kernels::Kernels(const ClDevice& device, std::filesystem::path cache_dir)
    : Kernels(device, cache_dir, ShapesBeside(cache_dir, device.info())) {}

Kernels::Kernels(const ClDevice& device, std::filesystem::path cache_dir, TunedShapes shapes)
    : Kernels(device, std::move(cache_dir), WithShapes(TraitsOf(device), shapes.changes, "shape")) {
  impl_->shapes = std::move(shapes);
}

Kernels::Kernels(const ClDevice& device, std::filesystem::path cache_dir,
                 const DeviceTraits& traits)
    : device_(device),
      impl_(std::make_unique<Impl>(Impl{{}, Programs(device, traits, std::move(cache_dir))})) {}

Kernels::~Kernels() = default;

void Kernels::Prepare(const std::vector<DType>& weight_formats, DType kv_type, bool many_rows,
                      bool fp8) {
  for (const DType format : weight_formats) {
    PrepareLinear(impl_->programs, format, many_rows);
    impl_->programs.Build(Program::kMlaHeads, format);
    PrepareMlaOneRow(impl_->programs, format);
    if (many_rows) PrepareGemm(impl_->programs, format, fp8);
  }
  // Attention over keys of several heads has no cache in FP8.
  if (kv_type != DType::kF8E4M3) impl_->programs.Build(Program::kKvCache, kv_type);
  impl_->programs.Build(Program::kMla, kv_type);
  if (kv_type != DType::kF32) impl_->programs.Build(Program::kMlaWgmma, kv_type);
  if (many_rows) PrepareMlaExpanded(impl_->programs);
  impl_->programs.Build(Program::kRows, DType::kF32);
}

std::uint64_t Kernels::own_bytes() const { return impl_->programs.own_bytes(); }

void Kernels::PreparePanels(DType format) { impl_->programs.Build(Program::kPanels, format); }

const DeviceTraits& Kernels::traits() const { return impl_->programs.traits(); }

const TunedShapes& Kernels::shapes() const { return impl_->shapes; }

const std::vector<std::string>& Kernels::refusals() const { return impl_->programs.refusals(); }

bool Kernels::RoundsFp8() { return cl::RoundsFp8(impl_->programs); }

void Kernels::RmsNorm(const RmsNormArgs& a) { LaunchRmsNorm(impl_->programs, a); }
void Kernels::Linear(const LinearArgs& a) { LaunchLinear(impl_->programs, a); }
void Kernels::HeadLinear(const HeadLinearArgs& a) { LaunchHeadLinear(impl_->programs, a); }
void Kernels::Rope(const RopeArgs& a) { LaunchRope(impl_->programs, a); }
void Kernels::KvAppend(const KvAppendArgs& a) { LaunchKvAppend(impl_->programs, a); }
void Kernels::Attention(const AttentionArgs& a) { LaunchAttention(impl_->programs, a); }
void Kernels::Swiglu(const SwigluArgs& a) { LaunchSwiglu(impl_->programs, a); }
void Kernels::Add(const AddArgs& a) { LaunchAdd(impl_->programs, a); }
void Kernels::Argmax(const ArgmaxArgs& a) { LaunchArgmax(impl_->programs, a); }
void Kernels::Panels(const PanelsArgs& a) { LaunchPanels(impl_->programs, a); }
void Kernels::PanelSplit(const PanelSplitArgs& a) { LaunchPanelSplit(impl_->programs, a); }
void Kernels::Router(const RouterArgs& a) { LaunchRouter(impl_->programs, a); }
void Kernels::RouterOneRow(const RouterArgs& a, const GroupArgs& g) {
  LaunchRouterOneRow(impl_->programs, a, g);
}
void Kernels::ScoresAndRouter(const LinearArgs& scores, const RouterArgs& a, const GroupArgs& g) {
  LaunchScoresAndRouter(impl_->programs, scores, a, g);
}
bool Kernels::RouterAndShared(const LinearArgs& scores, const RouterArgs& a, const GroupArgs& g,
                              const ExpertsArgs& experts, const Weight& gate, const Weight& up) {
  return LaunchedRouterAndShared(impl_->programs, scores, a, g, experts, gate, up);
}
void Kernels::Group(const GroupArgs& a) { LaunchGroup(impl_->programs, a); }
void Kernels::Experts(const ExpertsArgs& a) { LaunchExperts(impl_->programs, a); }
void Kernels::ExpertCombine(const ExpertCombineArgs& a) { LaunchExpertCombine(impl_->programs, a); }
void Kernels::HandOverPublish(const HandOverPublishArgs& a) {
  LaunchHandOverPublish(impl_->programs, a);
}
void Kernels::HandOverTake(const HandOverTakeArgs& a) { LaunchHandOverTake(impl_->programs, a); }
void Kernels::HandOverAdd(const HandOverAddArgs& a) { LaunchHandOverAdd(impl_->programs, a); }
void Kernels::FeedTake(const FeedTakeArgs& a) { LaunchFeedTake(impl_->programs, a); }
void Kernels::ArgmaxPublish(const ArgmaxPublishArgs& a) { LaunchArgmaxPublish(impl_->programs, a); }

void Kernels::MlaAppend(const MlaAppendArgs& a) { LaunchMlaAppend(impl_->programs, a); }
void Kernels::MlaQuery(const MlaQueryArgs& a) { LaunchMlaQuery(impl_->programs, a); }
void Kernels::MlaAttention(const MlaAttentionArgs& a) { LaunchMlaAttention(impl_->programs, a); }
void Kernels::MlaOutput(const MlaOutputArgs& a) { LaunchMlaOutput(impl_->programs, a); }
bool Kernels::MlaOneRow(const MlaQueryArgs& query, const MlaAttentionArgs& keys,
                        const MlaOutputArgs& out) {
  return LaunchedMlaOneRow(impl_->programs, query, keys, out);
}
void Kernels::MlaExpanded(const MlaExpandedArgs& a) { LaunchMlaExpanded(impl_->programs, a); }
bool Kernels::MlaExpandedPays(const MlaExpandedArgs& a) {
  return cl::MlaExpandedPays(impl_->programs, a);
}

std::filesystem::path DefaultCacheDir() { return CacheFolder("cl"); }

}  // namespace tandem::cl
