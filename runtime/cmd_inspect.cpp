#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "memory/dtype.h"
#include "model/chat_format.h"
#include "model/gguf.h"
#include "model/tensor_list.h"
#include "model/tensor_source.h"
#include "model/tokenizer.h"
#include "model/tokenizer_bytes.h"
#include "placement/byte_size.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/session.h"
#include "runtime/table.h"

namespace tandem {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  SessionOptions session;
  bool all_tensors = false;
  bool json = false;
};

constexpr std::array<Role, kNumRoles> kRoles = {Role::kEmbedding, Role::kHead,   Role::kAttention,
                                                Role::kDense,     Role::kRouter, Role::kShared,
                                                Role::kRouted,    Role::kMtp};

// Tensors that differ in layer and expert only, shown by the first of them.
struct Kind {
  const TensorInfo* first = nullptr;
  std::int64_t count = 0;
  std::uint64_t bytes = 0;
};

std::vector<Kind> KindsOf(const TensorList& tensors) {
  using Key = std::tuple<Role, Part, DType, std::vector<std::int64_t>>;
  std::map<Key, std::size_t> index;
  std::vector<Kind> kinds;
  for (const TensorInfo& t : tensors.all()) {
    const auto [at, added] = index.try_emplace({t.role, t.part, t.dtype, t.shape}, kinds.size());
    if (added) kinds.push_back({&t, 0, 0});
    Kind& kind = kinds[at->second];
    ++kind.count;
    kind.bytes += t.bytes();
  }
  return kinds;
}

// MTP layers are a model beside the model: published sizes leave them out.
std::int64_t TotalParameters(const TensorList& tensors) {
  std::int64_t total = 0;
  for (const Role role : kRoles) {
    if (role != Role::kMtp) total += tensors.Elements(role);
  }
  return total;
}

std::string ChatFormatOf(const Model& model) {
  if (model.path.empty() || !HasTokenizer(model.path)) {
    return std::string(Name(ChatFormat::kNone));
  }
  const Tokenizer tokenizer = ReadTokenizer(model.path, model.config.vocab_size);
  return std::string(Name(ReadChatFormat(model.path, model.config, tokenizer)));
}

// Bytes of a role by type, the most first.
std::vector<std::pair<DType, std::uint64_t>> FormatsOf(const TensorList& tensors, Role role) {
  std::map<DType, std::uint64_t> bytes;
  for (const TensorInfo& t : tensors.all()) {
    if (t.role == role) bytes[t.dtype] += t.bytes();
  }
  std::vector<std::pair<DType, std::uint64_t>> sorted(bytes.begin(), bytes.end());
  std::ranges::stable_sort(sorted, std::greater<>(), &std::pair<DType, std::uint64_t>::second);
  return sorted;
}

// "Q4_K 81 %, Q6_K 19 %", or the one type that there is.
std::string FormatMix(const TensorList& tensors, Role role) {
  const auto formats = FormatsOf(tensors, role);
  if (formats.size() == 1) return std::string(Name(formats[0].first));
  const auto all = static_cast<double>(tensors.Bytes(role));
  std::vector<std::string> parts;
  for (const auto& [type, bytes] : formats) {
    const double percent = 100 * static_cast<double>(bytes) / all;
    parts.push_back(percent < 0.5 ? fmt::format("{} <1 %", Name(type))
                                  : fmt::format("{} {:.0f} %", Name(type), percent));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

// What a GGUF file says of itself.
Json ContainerJson(const Gguf& gguf) {
  const GgufMetadata& m = gguf.metadata();
  return {{"version", gguf.version()},
          {"files", gguf.files().size()},
          {"tensors", gguf.tensors().size()},
          {"alignment", gguf.alignment()},
          {"metadata_keys", m.entries().size()},
          {"architecture", m.String("general.architecture", "")},
          {"tokenizer", m.String("tokenizer.ggml.model", "")},
          {"pre_tokenizer", m.String("tokenizer.ggml.pre", "")}};
}

bool IsGguf(const Model& model) { return !model.path.empty() && IsModelFile(model.path); }

std::string Shape(const TensorInfo& t) { return fmt::format("[{}]", fmt::join(t.shape, ", ")); }

Json ToJson(const TensorInfo& t) {
  return {{"name", t.name},       {"shape", t.shape},   {"dtype", Name(t.dtype)},
          {"role", Name(t.role)}, {"bytes", t.bytes()}, {"has_scale", t.has_scale}};
}

std::int64_t MoeLayers(const Config& config) {
  std::int64_t count = 0;
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (config.IsMoeLayer(layer)) ++count;
  }
  return count;
}

Json ArchitectureJson(const Config& c) {
  return {{"model_type", c.model_type},
          {"attention", c.attention == AttentionKind::kMla ? "mla" : "mha"},
          {"num_hidden_layers", c.num_hidden_layers},
          {"moe_layers", MoeLayers(c)},
          {"hidden_size", c.hidden_size},
          {"num_attention_heads", c.num_attention_heads},
          {"q_lora_rank", c.q_lora_rank},
          {"kv_lora_rank", c.kv_lora_rank},
          {"n_routed_experts", c.n_routed_experts},
          {"num_experts_per_tok", c.num_experts_per_tok},
          {"n_shared_experts", c.n_shared_experts},
          {"moe_intermediate_size", c.moe_intermediate_size},
          {"vocab_size", c.vocab_size},
          {"max_position_embeddings", c.max_position_embeddings},
          {"num_nextn_predict_layers", c.num_nextn_predict_layers},
          {"fp8", c.fp8}};
}

void PrintJson(const Model& model, bool all_tensors) {
  Json json = {{"name", model.name},
               {"architecture", ArchitectureJson(model.config)},
               {"chat_format", ChatFormatOf(model)},
               {"parameters",
                {{"total", TotalParameters(model.tensors)},
                 {"active", ActiveParameters(model.config, model.tensors)},
                 {"mtp", model.tensors.Elements(Role::kMtp)}}},
               {"bytes", Json::object()},
               {"formats", Json::object()},
               {"tensors", Json::array()}};
  if (IsGguf(model)) json["gguf"] = ContainerJson(Gguf(model.path));
  for (const Role role : kRoles) {
    const std::string name(Name(role));
    json["bytes"][name] = model.tensors.Bytes(role);
    for (const auto& [type, bytes] : FormatsOf(model.tensors, role)) {
      json["formats"][name][std::string(Name(type))] = bytes;
    }
  }
  if (all_tensors) {
    for (const TensorInfo& t : model.tensors.all()) json["tensors"].push_back(ToJson(t));
  } else {
    for (const Kind& kind : KindsOf(model.tensors)) {
      Json first = ToJson(*kind.first);
      first["count"] = kind.count;
      first["bytes_of_all"] = kind.bytes;
      json["tensors"].push_back(std::move(first));
    }
  }
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void PrintContainer(const Model& model) {
  const Gguf gguf(model.path);
  fmt::print("file          GGUF version {}: {} tensors in {} file(s), {} metadata keys, {}\n",
             gguf.version(), gguf.tensors().size(), gguf.files().size(),
             gguf.metadata().entries().size(),
             gguf.metadata().Has("tokenizer.ggml.model")
                 ? fmt::format("tokenizer {} ({})",
                               QuotedToken(gguf.metadata().String("tokenizer.ggml.pre", "unnamed")),
                               HasTokenizer(model.path) ? "known" : "not known: token ids only")
                 : "no tokenizer");
}

void PrintArchitecture(const Model& model) {
  const Config& c = model.config;
  fmt::print("model         {}\n", model.name);
  if (IsGguf(model)) PrintContainer(model);
  fmt::print("architecture  {}: {} attention, {} layers ({} MoE), hidden size {}, vocabulary {}\n",
             c.model_type, c.attention == AttentionKind::kMla ? "MLA" : "MHA", c.num_hidden_layers,
             MoeLayers(c), c.hidden_size, c.vocab_size);
  if (c.n_routed_experts > 0) {
    fmt::print("experts       {} routed, {} a token, {} shared; intermediate size {}\n",
               c.n_routed_experts, c.num_experts_per_tok, c.n_shared_experts,
               c.moe_intermediate_size);
  }
  fmt::print("context       {} tokens\n", c.max_position_embeddings);
  fmt::print("parameters    {} total, {} active\n", FormatCount(TotalParameters(model.tensors)),
             FormatCount(ActiveParameters(c, model.tensors)));
  fmt::print("chat format   {}\n", ChatFormatOf(model));
  if (c.num_nextn_predict_layers > 0) {
    fmt::print("MTP           {} layer(s): recognised, not used yet\n", c.num_nextn_predict_layers);
  }
}

void PrintRoles(const TensorList& tensors) {
  Table table({{"role"},
               {"parameters", Table::Align::kRight},
               {"bytes", Table::Align::kRight},
               {"formats"}});
  for (const Role role : kRoles) {
    if (tensors.Elements(role) == 0) continue;
    table.Add({std::string(Name(role)), FormatCount(tensors.Elements(role)),
               FormatBytes(tensors.Bytes(role)), FormatMix(tensors, role)});
  }
  fmt::print("\n{}", table.ToText());
}

void PrintKinds(const TensorList& tensors) {
  Table table({{"count", Table::Align::kRight},
               {"bytes", Table::Align::kRight},
               {"dtype"},
               {"shape"},
               {"role"},
               {"first"}});
  for (const Kind& kind : KindsOf(tensors)) {
    table.Add({std::to_string(kind.count), FormatBytes(kind.bytes),
               std::string(Name(kind.first->dtype)), Shape(*kind.first),
               std::string(Name(kind.first->role)), kind.first->name});
  }
  fmt::print("\n{}", table.ToText());
}

void PrintTensors(const TensorList& tensors) {
  Table table({{"bytes", Table::Align::kRight}, {"dtype"}, {"shape"}, {"role"}, {"name"}});
  for (const TensorInfo& t : tensors.all()) {
    table.Add({FormatBytes(t.bytes()), std::string(Name(t.dtype)), Shape(t),
               std::string(Name(t.role)), t.name});
  }
  fmt::print("\n{}", table.ToText());
}

void Inspect(const InspectFlags& flags) {
  const Model model = OpenModel(flags.session);
  if (flags.json) return PrintJson(model, flags.all_tensors);
  PrintArchitecture(model);
  PrintRoles(model.tensors);
  flags.all_tensors ? PrintTensors(model.tensors) : PrintKinds(model.tensors);
}

}  // namespace

void AddInspectCommand(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand("inspect", "what a model is made of; reads headers only");
  auto flags = std::make_shared<InspectFlags>();
  AddSourceOptions(*command, flags->session, Source::kModelOrSynthetic);
  command->add_flag("--tensors", flags->all_tensors, "list every tensor, not the first of a kind");
  AddOutputOption(*command, flags->json);
  command->footer(
      "Examples:\n  tandem inspect --model DIR --tensors\n"
      "  tandem inspect --synthetic deepseek-v3 --output json");
  command->callback([flags, &chosen] { chosen = [flags] { Inspect(*flags); }; });
}

}  // namespace tandem
