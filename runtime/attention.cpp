#include "runtime/forward.h"
#include "runtime/mla_host.h"

namespace tandem {

Attention::Attention(Forward& f) : f_(f) {
  const Config& c = f.config;
  if (f.host.HasScratch("q")) {
    q_ = f.host.Activation("q", c.num_attention_heads * c.qk_head_dim());
    if (c.q_lora_rank > 0) q_a_ = f.host.Activation("q_a", c.q_lora_rank);
    z_ = f.host.Activation("z", c.kv_width());
    out_ = f.host.Activation("attention_out", c.num_attention_heads * c.v_head_dim);
    PrepareHost();
  }
  if (f.device != nullptr && f.device->HasScratch("q")) {
    dq_ = f.device->Scratch("q");
    if (c.q_lora_rank > 0) {
      dq_a_ = f.device->Scratch("q_a");
      dq_a_normed_ = f.device->Scratch("q_a normed");
    }
    dz_ = f.device->Scratch("z");
    dout_ = f.device->Scratch("attention_out");
    if (f.device->HasScratch("gemm_work")) work_ = f.device->Scratch("gemm_work");
    if (c.attention == AttentionKind::kMla) {
      dabsorbed_ = f.device->Scratch("absorbed_q");
      dparts_ = f.device->Scratch("attention_parts");
    }
    if (f.device->HasScratch("attention_lse")) dlse_ = f.device->Scratch("attention_lse");
  }
}

Attention::~Attention() = default;

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
