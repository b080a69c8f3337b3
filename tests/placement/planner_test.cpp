// ctest: unit
#include "placement/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "invented.h"
#include "memory/error.h"
#include "placement/scratch.h"
#include "real_shapes.h"

namespace tandem {
namespace {

using test::kGiB;
using test::OnDevice;
using test::PlanTiny;
using test::TinyTensors;
using test::V2LiteTensors;
using test::V3Tensors;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::uint64_t Up(std::uint64_t n, std::uint64_t align) {
  return (n + align - 1) / align * align;
}

// What one tensor takes, written down a second time and per tensor.
std::uint64_t HostBytes(const TensorInfo& t, std::size_t nodes) {
  const std::uint64_t n = static_cast<std::uint64_t>(t.elements());
  if (t.shape.size() < 2) return Up(4 * n, 64);
  const auto scales = t.has_scale ? 4 * static_cast<std::uint64_t>(t.scale_rows() * t.scale_cols())
                                  : std::uint64_t{0};
  const std::uint64_t pieces = (nodes - 1) * 64;  // every further node rounds up its piece
  return Up(n * BytesOf(t.dtype), 64) + pieces + (scales > 0 ? Up(scales, 64) + pieces : 0);
}
std::uint64_t DeviceBytes(const TensorInfo& t) {
  const std::uint64_t n = static_cast<std::uint64_t>(t.elements());
  if (t.shape.size() < 2) return Up(4 * n, 256);
  const auto scales = t.has_scale ? 4 * static_cast<std::uint64_t>(t.scale_rows() * t.scale_cols())
                                  : std::uint64_t{0};
  return Up(n * BytesOf(t.dtype), 256) + Up(scales, 256);
}

Place PlaceOf(const TensorInfo& t, const Plan& plan) {
  if (t.role == Role::kEmbedding) return plan.embedding;
  if (t.role == Role::kHead) return plan.head;
  const LayerPlan& layer = plan.layers[static_cast<std::size_t>(t.layer)];
  if (t.part == Part::kPostNorm) return layer.moe ? layer.router : layer.dense;
  if (t.role == Role::kAttention) return layer.attention;
  if (t.role == Role::kDense) return layer.dense;
  if (t.role == Role::kRouter) return layer.router;
  if (t.role == Role::kShared) return layer.shared;
  return layer.experts[static_cast<std::size_t>(t.expert)];
}

// Every byte of the items, from the tensors, the KV cache and the scratch one by one.
void ExpectExactSums(const Config& config, const TensorList& tensors, const Plan& plan) {
  std::uint64_t host = ProgramBytes(config, tensors.all().size(), plan);
  std::vector<std::uint64_t> device(plan.devices.size());
  const auto at = [&](Place place) -> std::uint64_t& {
    return place.on_device() ? device[static_cast<std::size_t>(place.index)] : host;
  };
  for (const TensorInfo& t : tensors.all()) {
    const Place place = PlaceOf(t, plan);
    at(place) += place.on_device() ? DeviceBytes(t) : HostBytes(t, plan.nodes.size());
    if (place.on_device() && t.shape.size() < 2) host += HostBytes(t, plan.nodes.size());
  }
  for (const LayerPlan& layer : plan.layers) {
    at(layer.attention) +=
        static_cast<std::uint64_t>(plan.kv_blocks * 64 * config.kv_width()) * BytesOf(plan.kv_type);
  }
  host += SumBytes(HostScratch(config, plan, UseOf(plan, Place::Host())));
  for (int d = 0; d < static_cast<int>(device.size()); ++d) {
    at(Place::Device(d)) += SumBytes(DeviceScratch(config, plan, UseOf(plan, Place::Device(d))));
    EXPECT_EQ(plan.DeviceBytes(d), at(Place::Device(d)));
  }
  EXPECT_EQ(plan.host_bytes, host);
}

TEST(Planner, WithoutADeviceEverythingIsOnTheHost) {
  const Plan plan = PlanTiny(test::CpuMachine(1, 4, 8 * kGiB), {});
  EXPECT_TRUE(plan.devices.empty());
  ASSERT_EQ(plan.nodes.size(), 1u);
  EXPECT_EQ(plan.nodes[0].cores, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_FALSE(plan.head.on_device());
  for (const LayerPlan& layer : plan.layers) EXPECT_EQ(test::ExpertsOnDevice(layer), 0);
  EXPECT_EQ(plan.host_budget_bytes, 8 * kGiB - 8 * kGiB / 20);
  EXPECT_THAT(ToText(plan), HasSubstr("no OpenCL device was found (no platform)"));
  ExpectExactSums(test::Tiny(), TinyTensors(), plan);
}

TEST(Planner, DeviceNoneSaysNothingAboutDevices) {
  Profile profile;
  profile.device = "none";
  const Plan plan = PlanTiny(test::PoclMachine(), profile);
  EXPECT_TRUE(plan.devices.empty());
  EXPECT_THAT(plan.notes, IsEmpty());
  EXPECT_EQ(plan.nodes[0].cores.size(), 4u);
}

TEST(Planner, PoclSharesCoresAndMemory) {
  Profile profile = OnDevice("0", 0.5);
  profile.threads = 2;
  const Plan plan = PlanTiny(test::PoclMachine(5), profile);
  ASSERT_EQ(plan.devices.size(), 1u);
  EXPECT_EQ(plan.nodes[0].cores.size(), 2u);
  EXPECT_EQ(plan.devices[0].threads, 3);
  EXPECT_EQ(plan.devices[0].budget_bytes, 8 * kGiB);  // a quarter of the limit
  EXPECT_EQ(plan.HostMemoryBytes(), plan.host_bytes + plan.DeviceBytes(0));
  for (const LayerPlan& layer : plan.layers) {
    EXPECT_TRUE(layer.attention.on_device());
    EXPECT_EQ(test::ExpertsOnDevice(layer), layer.moe ? 16 : 0);
    EXPECT_EQ(layer.router.on_device(), layer.moe);
    EXPECT_EQ(layer.dense.on_device(), !layer.moe);
  }
  ExpectExactSums(test::Tiny(), TinyTensors(), plan);
}

// Half of the cores' memory bandwidth is no gain over all of it.
TEST(Planner, ADeviceThatDoesNotPayIsNotUsed) {
  const Plan plan =
      MakePlan(test::V2Lite(), V2LiteTensors(), test::PoclMachine(), {}, Precision::kFast);
  EXPECT_TRUE(plan.devices.empty());
  EXPECT_EQ(plan.nodes[0].cores.size(), 4u);
  EXPECT_THAT(ToText(plan),
              AllOf(HasSubstr("pthread-invented is not used, as it does not pay: predicted are"),
                    HasSubstr("with it"), HasSubstr("without")));
}

TEST(Planner, OneCoreServesBoth) {
  const Plan plan = PlanTiny(test::PoclMachine(1), OnDevice("0", 1));
  EXPECT_EQ(plan.nodes[0].cores.size(), 1u);
  ASSERT_EQ(plan.devices.size(), 1u);
  EXPECT_EQ(plan.devices[0].threads, 1);
}

TEST(Planner, AutoPrefersAGpuToPocl) {
  Machine machine = test::PoclMachine();
  test::AddDevice(machine, "Invented GPU", false, 8 * kGiB, 2 * kGiB);
  const Plan plan = PlanTiny(machine, OnDevice("auto", 1));
  ASSERT_EQ(plan.devices.size(), 1u);
  EXPECT_EQ(plan.devices[0].index, 1);
  EXPECT_EQ(plan.devices[0].threads, 0);
  EXPECT_EQ(plan.nodes[0].cores.size(), 4u);
  EXPECT_EQ(plan.devices[0].budget_bytes, 8 * kGiB - 8 * kGiB / 10);
  for (const LayerPlan& layer : plan.layers) {
    EXPECT_EQ(test::ExpertsOnDevice(layer), layer.moe ? 32 : 0);
  }
}

TEST(Planner, DevicesAreFoundByIndexAndByPartOfTheName) {
  Machine machine = test::PoclMachine();
  test::AddDevice(machine, "Invented GPU", false, 8 * kGiB, 2 * kGiB);
  Profile profile;
  profile.device = "0";
  EXPECT_EQ(PlanTiny(machine, profile).devices[0].name, "pthread-invented");
  profile.device = "gpu";
  EXPECT_EQ(PlanTiny(machine, profile).devices[0].name, "Invented GPU");
}

TEST(Planner, AnAbsentDeviceIsRefusedWithThoseFound) {
  Profile profile;
  for (const char* name : {"2", "NVIDIA"}) {
    profile.device = name;
    const std::string text =
        test::Refusal([&] { PlanTiny(test::PoclMachine(), profile); }, ExitCode::kUnavailable);
    EXPECT_THAT(text, AllOf(HasSubstr(name), HasSubstr("0: pthread-invented")));
  }
  const std::string text = test::Refusal([&] { PlanTiny(test::CpuMachine(1, 4, kGiB), profile); },
                                         ExitCode::kUnavailable);
  EXPECT_THAT(text, HasSubstr("no platform"));
}

TEST(Planner, DemandsWithoutADeviceAreRefused) {
  Profile profile;
  profile.attention = Side::kDevice;
  const Machine machine = test::CpuMachine(1, 4, 8 * kGiB);
  EXPECT_THAT(test::Refusal([&] { PlanTiny(machine, profile); }, ExitCode::kUnavailable),
              HasSubstr("placement.attention"));
  profile.device = "none";
  EXPECT_THAT(test::Refusal([&] { PlanTiny(machine, profile); }, ExitCode::kConfig),
              HasSubstr("placement.attention"));
  profile.attention = Side::kAuto;
  profile.experts = Profile::Experts::kShare;
  profile.experts_share = 0.5;
  EXPECT_THAT(test::Refusal([&] { PlanTiny(machine, profile); }, ExitCode::kConfig),
              HasSubstr("placement.routed_experts"));
}

TEST(Planner, DeepSeekV3FillsGpusInOrderAndInTime) {
  std::uint64_t last_experts = 0;
  for (std::uint64_t gib : {24, 80, 141}) {
    const Machine machine = test::GpuMachine(gib);
    const auto start = std::chrono::steady_clock::now();
    const Plan plan = MakePlan(test::V3(), V3Tensors(), machine, {}, Precision::kFast);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("V3 on %d GiB: planned in %.3f s\n%s", static_cast<int>(gib), seconds.count(),
                gib == 24 ? ToText(plan).c_str() : "");
    EXPECT_LE(plan.DeviceBytes(0), plan.devices[0].budget_bytes);
    // What is left is less than one expert: the budget is used.
    const std::uint64_t expert = 3 * (2048 * 7168 + 16 * 56 * 4);
    EXPECT_GT(plan.DeviceBytes(0) + expert, plan.devices[0].budget_bytes);
    for (const LayerPlan& layer : plan.layers) {
      EXPECT_TRUE(layer.attention.on_device());
      EXPECT_TRUE(layer.moe ? layer.shared.on_device() : layer.dense.on_device());
    }
    EXPECT_TRUE(plan.head.on_device());
    const std::uint64_t experts = test::BytesOfItem(plan, "routed experts", Place::Device(0));
    EXPECT_GT(experts, last_experts);
    last_experts = experts;
  }
}

TEST(Planner, V3OnEightGigabytesKeepsAPrefixOfAttention) {
  const Plan plan = MakePlan(test::V3(), V3Tensors(), test::GpuMachine(8), {}, Precision::kFast);
  std::size_t prefix = 0;
  while (prefix < plan.layers.size() && plan.layers[prefix].attention.on_device()) ++prefix;
  EXPECT_GT(prefix, 0u);
  EXPECT_LT(prefix, plan.layers.size());
  for (std::size_t i = prefix; i < plan.layers.size(); ++i) {
    EXPECT_FALSE(plan.layers[i].attention.on_device()) << i;
    EXPECT_FALSE(plan.layers[i].router.on_device()) << i;
  }
  EXPECT_LE(plan.DeviceBytes(0), plan.devices[0].budget_bytes);
}

TEST(Planner, TheSameIdsInEveryLayerAsFarAsTheyGo) {
  Profile profile;
  profile.experts_order = {9, 3};
  profile.experts = Profile::Experts::kBytes;
  const std::uint64_t expert = 3 * Up(200 * 50 * 2, 256);
  profile.experts_bytes = 6 * expert + 100;  // 4 MoE layers: one expert and a half
  const Plan plan = PlanTiny(test::GpuMachine(8), profile);
  for (std::size_t i = 1; i < 5; ++i) {
    EXPECT_TRUE(plan.layers[i].experts[9].on_device()) << i;
    EXPECT_EQ(plan.layers[i].experts[3].on_device(), i <= 2) << i;
    EXPECT_EQ(test::ExpertsOnDevice(plan.layers[i]), i <= 2 ? 2 : 1) << i;
  }
  ExpectExactSums(test::Tiny(), TinyTensors(), plan);
}

TEST(Planner, SharesAndBytes) {
  Profile profile;
  profile.experts = Profile::Experts::kShare;
  for (const auto& [share, expected] :
       std::vector<std::pair<double, int>>{{0, 0}, {0.001, 1}, {0.25, 8}, {0.3, 10}, {1, 32}}) {
    profile.experts_share = share;
    const Plan plan = PlanTiny(test::PoclMachine(), profile);
    EXPECT_EQ(test::ExpertsOnDevice(plan.layers[1]), expected) << share;
    EXPECT_EQ(test::ExpertsOnDevice(plan.layers[4]), expected) << share;
    ExpectExactSums(test::Tiny(), TinyTensors(), plan);
  }
  const std::uint64_t expert = 3 * Up(200 * 50 * 2, 256);
  profile.experts = Profile::Experts::kBytes;
  profile.experts_bytes = 5 * expert + expert - 1;
  const Plan plan = PlanTiny(test::PoclMachine(), profile);
  EXPECT_EQ(test::BytesOfItem(plan, "routed experts", Place::Device(0)), 5 * expert);
}

TEST(Planner, RolesByDemand) {
  Profile profile;
  profile.attention = Side::kHost;
  profile.dense = profile.shared_experts = Side::kDevice;
  profile.head = Side::kHost;
  profile.experts = Profile::Experts::kShare;
  profile.experts_share = 0.5;
  profile.device_layers = {0, 2};
  const Plan plan = PlanTiny(test::PoclMachine(), profile);
  EXPECT_FALSE(plan.head.on_device());
  EXPECT_TRUE(plan.layers[0].dense.on_device());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& layer = plan.layers[i];
    EXPECT_FALSE(layer.attention.on_device());
    EXPECT_FALSE(layer.router.on_device()) << "follows attention, layer " << i;
    EXPECT_EQ(layer.shared.on_device(), i == 1 || i == 2) << i;
    EXPECT_EQ(test::ExpertsOnDevice(layer), i == 0 ? 0 : 16) << "not bound by the range, " << i;
  }
  ExpectExactSums(test::Tiny(), TinyTensors(), plan);
  profile.router = Side::kDevice;
  EXPECT_TRUE(PlanTiny(test::PoclMachine(), profile).layers[2].router.on_device());
}

TEST(Planner, ADeviceThatGetsNothingIsNotOpened) {
  Profile profile;
  profile.attention = profile.dense = profile.shared_experts = Side::kHost;
  profile.router = profile.head = Side::kHost;
  profile.experts = Profile::Experts::kShare;
  const Plan plan = PlanTiny(test::PoclMachine(), profile);
  EXPECT_TRUE(plan.devices.empty());
  EXPECT_EQ(plan.nodes[0].cores.size(), 4u);
  EXPECT_THAT(ToText(plan), HasSubstr("pthread-invented is not used"));
}

TEST(Planner, TwoNodesShareThreadsAndWeights) {
  Machine machine = test::CpuMachine(2, 8, 64 * kGiB);
  machine.nodes.push_back({7, 16 * kGiB, 16 * kGiB, {}});  // memory without cores
  Profile profile;
  profile.threads = 5;
  const Plan plan = PlanTiny(machine, profile);
  ASSERT_EQ(plan.nodes.size(), 2u);
  EXPECT_EQ(plan.nodes[0].cores, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(plan.nodes[1].cores, (std::vector<int>{8, 9}));
  profile.threads = 1;
  EXPECT_EQ(PlanTiny(machine, profile).nodes.size(), 1u);
  profile.threads = 17;
  EXPECT_THAT(test::Refusal([&] { PlanTiny(machine, profile); }, ExitCode::kConfig),
              AllOf(HasSubstr("threads"), HasSubstr("1 to 16"), HasSubstr("17")));
}

TEST(Planner, ThreadsOfBothSidesMustFitTheCores) {
  Profile profile = OnDevice("0", 1);
  profile.threads = 3;
  EXPECT_EQ(PlanTiny(test::PoclMachine(4), profile).devices[0].threads, 1);
  profile.threads = 4;  // asked for every core: the device still gets a thread
  EXPECT_EQ(PlanTiny(test::PoclMachine(4), profile).devices[0].threads, 1);
  profile.device_threads = 1;  // as the plan says it
  EXPECT_EQ(PlanTiny(test::PoclMachine(4), profile).nodes[0].cores.size(), 4u);
  profile.device_threads = 2;
  const auto refusal = [&] {
    return test::Refusal([&] { PlanTiny(test::PoclMachine(4), profile); }, ExitCode::kConfig);
  };
  EXPECT_THAT(refusal(), HasSubstr("device_threads"));
  profile.threads.reset();
  EXPECT_EQ(PlanTiny(test::PoclMachine(4), profile).nodes[0].cores.size(), 2u);
  profile.node_threads = {{0, 3}};
  EXPECT_THAT(refusal(), HasSubstr("'threads' 3 and 'device_threads' 2"));
  profile.device_threads.reset();
  EXPECT_EQ(PlanTiny(test::PoclMachine(4), profile).devices[0].threads, 1);
}

TEST(Planner, KvCacheByPrecisionContextAndSequences) {
  const Machine machine = test::CpuMachine(1, 2, 8 * kGiB);
  Profile profile;
  EXPECT_EQ(PlanTiny(machine, profile).kv_type, DType::kF16);
  EXPECT_EQ(PlanTiny(machine, profile, Precision::kExact).kv_type, DType::kF32);
  profile.kv_type = DType::kF32;
  profile.context = 1000;
  profile.max_sequences = 3;
  const Plan plan = PlanTiny(machine, profile);
  EXPECT_EQ(plan.kv_type, DType::kF32);
  EXPECT_EQ(plan.kv_blocks, 16 + 3);
  EXPECT_EQ(test::BytesOfItem(plan, "KV cache", Place::Host()), 5u * 19 * 64 * (36 + 12) * 4);
}

TEST(Planner, AShorterChunkLeavesMoreForExperts) {
  Profile profile;
  const Machine machine = test::GpuMachine(24);
  const auto experts = [&] {
    const Plan plan = MakePlan(test::V3(), V3Tensors(), machine, profile, Precision::kFast);
    return test::BytesOfItem(plan, "routed experts", Place::Device(0));
  };
  const std::uint64_t with_512 = experts();
  profile.chunk = 64;
  const std::uint64_t with_64 = experts();
  profile.context = 65536;
  EXPECT_GT(with_64, with_512);
  EXPECT_LT(experts(), with_64);
}

TEST(Planner, TheSameArgumentsGiveTheSamePlan) {
  for (const Machine& machine : {test::PoclMachine(), test::GpuMachine(24), test::GpuMachine(80)}) {
    const auto plan = [&] {
      return ToJson(MakePlan(test::V2Lite(), V2LiteTensors(), machine, {}, Precision::kFast));
    };
    EXPECT_EQ(plan(), plan());
  }
}

TEST(Planner, SumsAreExactForRealShapes) {
  for (std::uint64_t gib : {8, 24, 80}) {
    const Machine machine = test::GpuMachine(gib);
    ExpectExactSums(test::V3(), V3Tensors(),
                    MakePlan(test::V3(), V3Tensors(), machine, {}, Precision::kExact));
    ExpectExactSums(test::V2Lite(), V2LiteTensors(),
                    MakePlan(test::V2Lite(), V2LiteTensors(), machine, {}, Precision::kFast));
  }
}

TEST(Planner, AllDenseAndTiedModels) {
  Config config = test::Tiny();
  config.n_routed_experts = config.n_shared_experts = config.num_experts_per_tok = 0;
  config.tie_word_embeddings = true;
  const TensorList tensors = ExpectedTensors(config, DType::kF32);
  const Plan plan =
      MakePlan(config, tensors, test::PoclMachine(), OnDevice("0", 1), Precision::kExact);
  for (const LayerPlan& layer : plan.layers) {
    EXPECT_FALSE(layer.moe);
    EXPECT_TRUE(layer.dense.on_device());
    EXPECT_TRUE(layer.experts.empty());
  }
  ExpectExactSums(config, tensors, plan);
}

}  // namespace
}  // namespace tandem
