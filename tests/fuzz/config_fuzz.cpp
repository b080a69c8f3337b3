// Feeds any bytes to the parser of config.json. A config that is accepted must be usable: its
// formulas give finite numbers, and its tensors have sizes that fit 63 bits.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "memory/error.h"
#include "model/config.h"
#include "model/tensor_list.h"

namespace {

void Use(const tandem::Config& config) {
  for (const double f : config.inv_freq()) TANDEM_CHECK(std::isfinite(f) && f > 0 && f <= 1);
  TANDEM_CHECK(std::isfinite(config.softmax_scale()) && config.softmax_scale() > 0);
  TANDEM_CHECK(std::isfinite(config.rope_attention_factor()));
  TANDEM_CHECK(config.kv_width() > 0);
  // Listing the tensors of a large model takes too long for a fuzzer.
  if (config.num_hidden_layers * (config.n_routed_experts + 1) > 1000) return;
  for (const auto dtype : {tandem::DType::kF32, tandem::DType::kF8E4M3}) {
    const tandem::TensorList list = tandem::ExpectedTensors(config, dtype);
    for (const tandem::TensorInfo& tensor : list.all()) TANDEM_CHECK(tensor.elements() > 0);
    TANDEM_CHECK(tandem::ActiveParameters(config, list) > 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    Use(tandem::ParseConfig(text, "config.json"));
  } catch (const tandem::CheckpointError&) {  // the one way in which a bad file may end
  }
  return 0;
}
