#include <algorithm>

#include "runtime/forward.h"

namespace tandem {

Attention::Attention(Forward& f) : f_(f) {
  const Config& c = f.config;
  const std::int64_t rows = f.plan.max_rows;
  const std::int64_t q_width = c.num_attention_heads * c.qk_head_dim();
  const std::int64_t out_width = c.num_attention_heads * c.v_head_dim;
  const bool shadow = f.host.round_activations;
  bool any_host = false;
  bool any_device = false;
  for (const LayerPlan& layer : f.plan.layers) {
    (layer.attention.on_device() ? any_device : any_host) = true;
  }
  if (any_host) {
    q_ = HostActivation(rows, q_width, false);
    q_a_ = HostActivation(rows, c.q_lora_rank, shadow);
    z_ = HostActivation(rows, c.kv_width(), false);
    out_ = HostActivation(rows, out_width, shadow);
  }
  if (any_device) {
    const std::int64_t heads = c.num_attention_heads;
    dq_ = f.device->Scratch("q", rows * q_width);
    dq_a_ = f.device->Scratch("q_a", std::max<std::int64_t>(1, rows * c.q_lora_rank));
    dz_ = f.device->Scratch("z", rows * c.kv_width());
    dout_ = f.device->Scratch("attention_out", rows * out_width);
    if (c.attention == AttentionKind::kMla) {
      dabsorbed_ = f.device->Scratch("absorbed_q", rows * heads * c.kv_width());
      dlatent_ = f.device->Scratch("latent_out", rows * heads * c.kv_lora_rank);
    }
  }
}

void Attention::Run(int layer) {
  const Place place = f_.plan.layers[layer].attention;
  f_.x.MoveTo(place, f_.T());
  if (place.on_device()) {
    RunOnDevice(layer);
  } else {
    RunOnHost(layer);
  }
}

}  // namespace tandem
