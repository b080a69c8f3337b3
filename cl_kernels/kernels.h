#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cl_kernels/args.h"
#include "memory/cl_device.h"
#include "memory/tuned_shapes.h"

namespace tandem::cl {

struct DeviceTraits;

// The compiled programs of one device and their launchers. Programs are built when first asked for
// (per weight format where it matters) and kept; binaries are cached on disk under `cache_dir`
// (empty: no cache), keyed by source, options, device, driver, platform version and format number,
// with the full key stored and compared; any failure there means compiling from source.
// Not thread-safe: one thread enqueues.
class Kernels {
 public:
  // Shapes are the table's, or where there is a cache those of the folder "shapes" beside it.
  Kernels(const ClDevice& device, std::filesystem::path cache_dir);
  // With other shapes than TraitsOf(device) chooses, for tests and tuning.
  Kernels(const ClDevice& device, std::filesystem::path cache_dir, const DeviceTraits& traits);
  ~Kernels();

  // Builds every program that these formats need, so that no step compiles. Throws OpenClError with
  // options, device and build log.
  // `many_rows`: also those for many rows that may be rounded to bf16; `fp8`: or to e4m3.
  void Prepare(const std::vector<DType>& weight_formats, DType kv_type, bool many_rows = true,
               bool fp8 = false);

  void PreparePanels(DType format);
  // What they hold of the device's memory, from the beginning on.
  std::uint64_t own_bytes() const;

  void RmsNorm(const RmsNormArgs& a);
  void Linear(const LinearArgs& a);
  void HeadLinear(const HeadLinearArgs& a);
  void Rope(const RopeArgs& a);
  void KvAppend(const KvAppendArgs& a);
  void Attention(const AttentionArgs& a);
  void Swiglu(const SwigluArgs& a);
  void Add(const AddArgs& a);
  void Argmax(const ArgmaxArgs& a);
  void Panels(const PanelsArgs& a);
  void PanelSplit(const PanelSplitArgs& a);
  void Router(const RouterArgs& a);
  // Router and Group of a step's only row in one launch; the tiles are in the order of the choices.
  void RouterOneRow(const RouterArgs& a, const GroupArgs& g);
  // The same and the product before it, whose result a.logits is.
  void ScoresAndRouter(const LinearArgs& scores, const RouterArgs& a, const GroupArgs& g);
  // The same and gate and up of the shared expert, whose matrices these are, over the norm that
  // scores makes; experts.act has the result, and Experts is to be called with shared_made. Every
  // expert must be on this device. False: not for this device or these formats, nothing is
  // enqueued.
  bool RouterAndShared(const LinearArgs& scores, const RouterArgs& a, const GroupArgs& g,
                       const ExpertsArgs& experts, const Weight& gate, const Weight& up);
  void Group(const GroupArgs& a);
  void Experts(const ExpertsArgs& a);
  void ExpertCombine(const ExpertCombineArgs& a);
  void MlaAppend(const MlaAppendArgs& a);
  void MlaQuery(const MlaQueryArgs& a);
  void MlaAttention(const MlaAttentionArgs& a);
  void MlaOutput(const MlaOutputArgs& a);
  // The three above in one launch, where a form takes one row and so few keys; parts and lse have
  // room for kMlaOneRowSplits runs of each head. False: nothing is enqueued.
  bool MlaOneRow(const MlaQueryArgs& query, const MlaAttentionArgs& keys, const MlaOutputArgs& out);
  void MlaExpanded(const MlaExpandedArgs& a);
  // Whether a device is quicker with it than with the absorbed form, the rows being enough.
  bool MlaExpandedPays(const MlaExpandedArgs& a);

  void HandOverPublish(const HandOverPublishArgs& a);
  void HandOverTake(const HandOverTakeArgs& a);
  void HandOverAdd(const HandOverAddArgs& a);

  void FeedTake(const FeedTakeArgs& a);
  void ArgmaxPublish(const ArgmaxPublishArgs& a);

  const ClDevice& device() const { return device_; }
  const DeviceTraits& traits() const;
  // What a file had to say to traits(); none where they were given.
  const TunedShapes& shapes() const;
  // Forms that the driver refused, and why: a line each. Generic ones take their place.
  const std::vector<std::string>& refusals() const;
  // Whether products with LinearArgs::fp8 round x to e4m3 here (gemm.h).
  bool RoundsFp8();

 private:
  struct Impl;
  Kernels(const ClDevice& device, std::filesystem::path cache_dir, TunedShapes shapes);
  const ClDevice& device_;
  std::unique_ptr<Impl> impl_;
};

// $XDG_CACHE_HOME/tandem/cl (or ~/.cache/tandem/cl); empty where neither variable is set.
std::filesystem::path DefaultCacheDir();

}  // namespace tandem::cl
