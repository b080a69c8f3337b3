#include "placement/scratch.h"

#include <algorithm>

#include "memory/meetings.h"
#include "placement/attention_scratch.h"
#include "placement/step_feed_shape.h"

namespace tandem {
namespace {

// As the runtime has them; it checks that they agree.
constexpr std::int64_t kExpertEntryWords = 56 / 4;  // cl::ExpertEntry
constexpr std::int64_t kExpertTileWords = 16 / 4;   // cl::ExpertTile
constexpr std::int64_t kLeastTileRows = 8;
constexpr std::int64_t kArgmaxFloats = 32 * 2;  // cl::ArgmaxPart
constexpr std::int64_t kLeastLogitRows = 64;    // 33 MiB for V3's vocabulary
constexpr std::uint64_t kLeastStreamSlots = 3;  // one fills, one is full, one computes

class List {
 public:
  void Add(const char* name, std::int64_t floats) {
    if (floats > 0) buffers_.push_back({name, floats});
  }
  void AddPinned(const char* name, std::int64_t floats) {
    if (floats > 0) buffers_.push_back({name, floats, true});
  }
  std::vector<ScratchBuffer> Take() { return std::move(buffers_); }

 private:
  std::vector<ScratchBuffer> buffers_;
};

// What the sizes are made of. T rows, D hidden_size, H heads, K experts per token.
struct Sizes {
  Sizes(const Config& c, const Plan& plan)
      : T(plan.max_rows),
        D(c.hidden_size),
        q(c.num_attention_heads * c.qk_head_dim()),
        out(c.num_attention_heads * c.v_head_dim),
        pairs(T * c.num_experts_per_tok),
        shared(c.n_shared_experts * c.moe_intermediate_size),
        moe(c.n_routed_experts > 0) {
    for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
      if (!c.IsMoeLayer(i)) dense = c.intermediate_size;
    }
    batch = BatchWords(c, plan, T);
  }
  std::int64_t T, D, q, out, pairs, shared;
  bool moe;
  std::int64_t dense = 0;  // 0: no layer is dense
  std::int64_t batch = 0;
};

// Words for the tables of all layers' experts on a device (cl::ExpertEntry, the shared one behind
// the routed ones), and for the lists of one layer's pairs and tiles (cl::GroupArgs).
std::int64_t TableWords(const Config& c) {
  return c.num_hidden_layers * kExpertEntryWords * (c.n_routed_experts + 1);
}
std::int64_t GroupWords(const Config& c, const Sizes& s) {
  const std::int64_t pairs = s.pairs + s.T;  // each row chooses the shared expert, too
  const std::int64_t tiles = std::min(pairs, c.n_routed_experts + 1) + pairs / kLeastTileRows;
  return kExpertTileWords * (tiles + 1) + 3 * pairs;
}

// The hand-over of MoE layers (runtime/hand_over.h): on the host slots of h, ids, weights and a
// sum, two where layers may overlap; on the device the rows of the sum that it adds at a time.
// Devices with cores of their own have a second, small set that is polled.
constexpr std::int64_t kHandOverSumRows = 256;
constexpr std::int64_t kHandOverPackedRows = 2;
constexpr std::int64_t kHandOverPolledRows = 32;
constexpr std::int64_t kHandOverSlots = 2;
constexpr std::int64_t kHandOverControl = 16;
constexpr std::int64_t kHandOverFlags = 64;

// Words of h, ids and weights of so many rows, and of these and a sum, on whole lines.
std::int64_t HandOverInput(const Config& c, const Sizes& s, std::int64_t rows) {
  return (rows * (s.D + 2 * c.num_experts_per_tok) + 31) / 32 * 32;
}
std::int64_t HandOverSlot(const Config& c, const Sizes& s, std::int64_t rows) {
  return HandOverInput(c, s, rows) + (rows * s.D + 31) / 32 * 32;
}
std::int64_t HandOverHostFloats(const Config& c, const Sizes& s, bool polled) {
  const std::int64_t few = kHandOverSlots * HandOverSlot(c, s, std::min(s.T, kHandOverPolledRows));
  const std::int64_t events = std::max(HandOverSlot(c, s, s.T), few);
  return events + (polled ? kHandOverFlags + few : 0);
}
std::int64_t HandOverDeviceFloats(const Config& c, const Sizes& s, bool polled) {
  const std::int64_t packed =
      kHandOverFlags + HandOverInput(c, s, std::min(s.T, kHandOverPackedRows));
  const std::int64_t events = packed + std::min(s.T, kHandOverSumRows) * s.D + kHandOverControl;
  return events + (polled ? kHandOverControl : 0);
}
bool Polls(const Plan& plan) {
  if (plan.hand_over != HandOverWay::kAuto) return plan.hand_over == HandOverWay::kPolled;
  return !plan.devices.empty() && !plan.devices[0].shares_cores;
}

std::int64_t Floats(std::uint64_t bytes) { return static_cast<std::int64_t>(bytes / 4); }

// Slots of experts, and a table of the experts for each group and one of all, in every MoE layer.
void AddStream(List& list, const Config& c, const Plan& plan) {
  const std::int64_t experts = StreamSlots(plan) * kStreamSlotExperts;
  list.Add("stream", experts * Floats(plan.stream.expert_bytes));
  // One slot's: decoded just before they run, in one queue with that.
  list.Add("stream bf16", kStreamSlotExperts * Floats(plan.stream.bf16_bytes));
  const std::int64_t groups =
      (c.n_routed_experts + kStreamSlotExperts - 1) / kStreamSlotExperts + 1;
  list.Add("stream tables", groups * TableWords(c));
}

std::int64_t WorkerFloats(const Config& c, const Plan& plan, const ScratchUse& use) {
  std::int64_t floats = use.attention ? AttentionScratch(c, plan).worker() : 0;
  if (use.mlp || use.experts) {  // gate and up of one ticket
    floats = std::max(floats, 2 * plan.max_rows * MostTicketRows(plan.max_rows));
  }
  return floats;
}

std::int64_t Workers(const Plan& plan) {
  std::int64_t workers = 0;
  for (const PlanNode& node : plan.nodes) workers += std::ssize(node.cores);
  return workers;
}

// Activations, with the shadows that kernels take where the run may round them.
class Activations {
 public:
  Activations(List& list, const Plan& plan)
      : list_(list),
        bf16_(plan.bf16_many_rows || plan.activation_type == DType::kBF16),
        q8_(plan.precision == Precision::kFast && plan.block_formats) {}

  void Add(const char* name, const char* bf16, const char* q8, std::int64_t values) {
    list_.Add(name, values);
    if (bf16_) list_.Add(bf16, (values + 1) / 2);
    if (q8_ && values > 0) list_.Add(q8, QuantizedFloats(values));
  }

 private:
  List& list_;
  bool bf16_, q8_;
};

void AddHostAttention(List& list, Activations& shaded, const Config& c, const Plan& plan,
                      const Sizes& s) {
  list.Add("q", s.T * s.q);
  shaded.Add("q_a", "q_a bf16", "q_a q8", s.T * c.q_lora_rank);
  list.Add("z", s.T * c.kv_width());
  const AttentionScratch shared(c, plan);
  list.Add("absorbed_q", shared.absorbed);
  list.Add("attention_parts", shared.parts);
  list.Add("attention_states", shared.states);
  shaded.Add("attention_out", "attention_out bf16", "attention_out q8", s.T * s.out);
}

// The dense MLP's activations, or those of all experts of a MoE layer side by side.
std::int64_t HostActivations(const Config& c, const Sizes& s, const ScratchUse& use) {
  const std::int64_t moe =
      (use.mlp ? s.T * s.shared : 0) + (use.experts ? s.pairs * c.moe_intermediate_size : 0);
  return std::max(use.mlp ? s.T * s.dense : 0, moe);
}

}  // namespace

ScratchUse UseOf(const Plan& plan, Place place) {
  ScratchUse use;
  use.any_device = !plan.devices.empty();
  use.head = plan.head == place;
  use.first = place == Place::Device(0);
  use.cache = plan.cache.slots > 0 && use.first;
  use.feed = (use.first || !place.on_device()) && StepsAhead(plan);
  for (const LayerPlan& layer : plan.layers) {
    use.attention = use.attention || layer.attention == place;
    if (!layer.moe) {
      use.mlp = use.mlp || layer.dense == place;
      continue;
    }
    use.mlp = use.mlp || (layer.has_shared && layer.shared == place);
    use.router = use.router || layer.router == place;
    use.experts = use.experts || std::ranges::find(layer.experts, place) != layer.experts.end();
  }
  return use;
}

std::int64_t StreamSlots(const Plan& plan) {
  constexpr std::uint64_t kLeast = kLeastStreamSlots;
  constexpr std::uint64_t kMost = 64;
  const std::uint64_t slot = plan.stream.expert_bytes * kStreamSlotExperts;
  if (slot == 0 || plan.devices.empty()) return kLeast;
  const PlanDevice& device = plan.devices[0];
  const std::uint64_t room = std::min(device.budget_bytes / 16, device.max_alloc_bytes);
  return static_cast<std::int64_t>(std::clamp(room / slot, kLeast, kMost));
}

std::uint64_t LeastStreamBuffer(const StreamPlan& stream) {
  return kStreamSlotExperts * std::max(kLeastStreamSlots * stream.expert_bytes, stream.bf16_bytes);
}

KvBuffers KvBuffersOf(const Config& c, const Plan& plan) {
  if (plan.devices.empty()) return {1, plan.kv_blocks};
  return KvBuffersOf(c, plan.kv_blocks, plan.kv_type, plan.devices[0].max_alloc_bytes);
}

std::int64_t BatchWords(const Config& c, const Plan& plan, std::int64_t T) {
  const std::int64_t tables = std::min(T, plan.max_sequences) * plan.kv_blocks;
  const std::int64_t words = T * (c.qk_rope_head_dim + 3) + tables;
  // The same but the angles once more, for each of several buffers.
  const std::int64_t buffers = KvBuffersOf(c, plan).count;
  return buffers > 1 ? words + 3 * T * buffers + tables : words;
}

std::int64_t LogitRows(const Plan& plan) {
  return std::min(plan.max_rows, std::max(plan.max_sequences, kLeastLogitRows));
}

std::vector<ScratchBuffer> HostScratch(const Config& c, const Plan& plan, const ScratchUse& use) {
  const Sizes s(c, plan);
  // Devices beyond the first get their rows from here.
  const std::int64_t further = s.moe ? std::max<std::int64_t>(1, std::ssize(plan.devices)) - 1 : 0;
  const bool computes =
      use.attention || use.mlp || use.router || use.experts || use.head || further > 0;
  List list;
  Activations shaded(list, plan);
  list.Add("batch", s.batch);
  list.Add("wanted_rows", s.T);
  list.Add("x", s.T * s.D);
  if (computes) shaded.Add("h", "h bf16", "h q8", s.T * s.D);
  if (use.attention) AddHostAttention(list, shaded, c, plan, s);
  shaded.Add("act", "act bf16", "act q8", HostActivations(c, s, use));
  if (use.router) list.Add("router_logits", s.T * c.n_routed_experts);
  if (s.moe) {
    list.Add("routing", 2 * s.pairs);
    list.Add("pairs", 3 * s.pairs + 4 * (c.n_routed_experts + 1));
  }
  if (use.any_device && s.moe && (use.router || use.mlp || use.experts)) {
    list.Add("host_part", s.T * s.D);
  }
  if (use.any_device && s.moe) {
    list.AddPinned("hand_over", HandOverHostFloats(c, s, Polls(plan)));
    list.AddPinned("expert devices", further * 2 * s.T * (s.D + c.num_experts_per_tok));
    if (plan.cache.slots > 0) {
      list.AddPinned("cache ring", kCacheUnderWay * Floats(plan.cache.raw_bytes));
    }
    if (plan.stream_prefill) {
      list.AddPinned("stream ring", kStreamPieces * Floats(kStreamPieceBytes));
      list.AddPinned("stream tiles", kStreamTileReads * Floats(StreamTileBytes(plan)));
    }
  }
  if (use.feed) list.AddPinned("step feed", StepFeedShape(c, plan).words());
  list.Add("logits", LogitRows(plan) * c.vocab_size);
  list.Add("greedy", LogitRows(plan));
  if (use.any_device) list.Add("argmax", LogitRows(plan) * kArgmaxFloats);
  list.Add("workers", Workers(plan) * WorkerFloats(c, plan, use));
  return list.Take();
}

namespace {

void AddDeviceAttention(List& list, const Config& c, const Plan& plan, const Sizes& s) {
  list.Add("q", s.T * s.q);
  list.Add("q_a", s.T * c.q_lora_rank);
  list.Add("q_a normed", s.T * c.q_lora_rank);
  list.Add("z", s.T * c.kv_width());
  list.Add("attention_out", s.T * s.out);
  if (c.attention != AttentionKind::kMla) {
    const bool merges = KvBuffersOf(c, plan).count > 1;  // of keys in several buffers
    list.Add("attention_lse", merges ? s.T * c.num_attention_heads : 0);
    return;
  }
  const std::int64_t rows = DeviceMlaRows(c, plan) * c.num_attention_heads;
  const DeviceExpandedFloats block(c);  // the expanded form takes the same room for its keys
  list.Add("absorbed_q", std::max(rows * c.kv_width(), block.latents));
  list.Add("attention_parts", std::max((kDeviceMlaParts + rows) * c.kv_lora_rank, block.expanded));
  list.Add("attention_lse", kDeviceMlaParts + plan.max_rows * c.num_attention_heads);
}

// Inputs of products of many rows, rounded to bf16: the widest one.
std::int64_t GemmFloats(const Config& c, const Sizes& s, const ScratchUse& use) {
  std::int64_t width = s.D;
  if (use.attention) width = std::max({width, s.out, c.q_lora_rank});
  if (use.mlp) width = std::max({width, s.dense, s.shared});
  return (s.T + 15) / 16 * 16 * ((width + 63) / 64 * 64) / 2;  // cl::GemmWorkFloats
}

}  // namespace

std::vector<ScratchBuffer> DeviceScratch(const Config& c, const Plan& plan, const ScratchUse& use) {
  const Sizes s(c, plan);
  const bool streams = use.first && plan.stream_prefill;
  List list;
  if (use.attention) list.Add("batch", s.batch);
  if (use.attention || use.mlp || use.router || use.head) list.Add("x", s.T * s.D);
  list.Add("h", s.T * s.D);
  if (use.attention) AddDeviceAttention(list, c, plan, s);
  if (use.mlp) list.Add("gate", s.T * std::max(s.dense, s.shared));
  if (s.moe && (use.mlp || use.experts || use.cache)) list.Add("device_part", s.T * s.D);
  if (use.router) list.Add("router_logits", s.T * c.n_routed_experts);
  if (use.router || use.experts || use.cache)
    list.Add("router_choice", 2 * s.pairs);  // ids, then weights
  if (use.cache) {
    list.Add("expert cache", plan.cache.slots * Floats(plan.cache.expert_bytes));
    list.Add("expert cache raw", kCacheUnderWay * Floats(plan.cache.raw_bytes));
  }
  if (use.experts || use.cache || streams) {
    const std::int64_t pairs = s.pairs + s.T;
    list.Add("act", pairs * std::max(c.moe_intermediate_size, s.shared));
    list.Add("pair_out", pairs * s.D);
    list.Add("expert_table", TableWords(c));
    list.Add("expert_lists", GroupWords(c, s));
  }
  if (s.moe && use.first) list.AddPinned("hand_over", HandOverDeviceFloats(c, s, Polls(plan)));
  if (s.moe && streams) AddStream(list, c, plan);
  if (plan.bf16_many_rows) list.Add("gemm_work", GemmFloats(c, s, use));
  if (use.head) {
    list.Add("logits", LogitRows(plan) * c.vocab_size);
    list.Add("argmax", LogitRows(plan) * kArgmaxFloats);
  }
  if (use.feed) list.Add("step feed", StepFeedShape::kControl);
  list.AddPinned("meetings", MeetingWords(plan.devices[0].max_alloc_bytes));
  return list.Take();
}

// At most a tile for each expert and one for each whole tile's rows, and their number; on whole
// lines.
std::uint64_t StreamTileBytes(const Plan& plan) {
  std::uint64_t experts = 1;
  for (const LayerPlan& layer : plan.layers) {
    experts = std::max<std::uint64_t>(experts, layer.experts.size() + 1);
  }
  constexpr std::uint64_t kMostChoices = 64;
  const auto pairs = static_cast<std::uint64_t>(plan.max_rows) * kMostChoices;
  const std::uint64_t tiles = experts + pairs / kLeastTileRows;
  return (tiles * kExpertTileWords * sizeof(float) + sizeof(float) + 63) / 64 * 64;
}

ScratchBuffer LargestBuffer(const Config& c, const Plan& plan, const ScratchUse& use) {
  std::vector<ScratchBuffer> buffers = DeviceScratch(c, plan, use);
  const Sizes s(c, plan);
  if (s.moe && !use.first) {
    buffers.push_back({"expert devices", 2 * s.T * (s.D + c.num_experts_per_tok), true});
  }
  if (s.moe && use.first) {
    buffers.push_back({"hand_over", HandOverHostFloats(c, s, false), true});
    if (plan.stream_prefill) {
      buffers.push_back({"stream ring", kStreamPieces * Floats(kStreamPieceBytes), true});
    }
    if (use.cache) {
      buffers.push_back({"cache ring", kCacheUnderWay * Floats(plan.cache.raw_bytes), true});
    }
  }
  return *std::ranges::max_element(buffers, {}, &ScratchBuffer::floats);
}

std::uint64_t SumBytes(const std::vector<ScratchBuffer>& buffers) {
  std::uint64_t sum = 0;
  for (const ScratchBuffer& buffer : buffers) sum += buffer.bytes();
  return sum;
}

// Resident bytes beside all buffers, measured on x86-64 with glibc 2.36: 9 MiB for the program and
// its libraries; 41 MiB while a tokenizer of V3's size is read and less after; 0.13 KiB for a
// tensor of a synthetic model, more with names from a checkpoint's headers; PoCL 3.1 90 MiB with
// compiled kernels from its cache and 225 MiB where it had to compile them; NVIDIA's driver 580
// with an H100 205 to 240 MiB.
std::uint64_t ProgramBytes(const Config& config, std::size_t tensors, const Plan& plan) {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  constexpr std::uint64_t kPocl = 256 * kMiB;
  constexpr std::uint64_t kGpuDriver = 256 * kMiB;
  std::uint64_t bytes = 16 * kMiB;
  bytes += static_cast<std::uint64_t>(config.vocab_size) * 256;
  bytes += tensors * 512;
  bytes += static_cast<std::uint64_t>(Workers(plan)) * (kMiB / 4);  // stacks
  for (const PlanDevice& device : plan.devices) {
    bytes += device.shares_cores ? kPocl : kGpuDriver;
  }
  return bytes;
}

}  // namespace tandem
