#include "cpu_kernels/attention.h"

#include "cpu_kernels/attention_body.h"
#include "cpu_kernels/avx512/kernels.h"
#include "cpu_kernels/avx512/simd.h"
#include "cpu_kernels/kv_rows.h"

namespace tandem::cpu::avx512 {
namespace {

struct Formats {
  using F32 = F32Format;
  using BF16 = Bf16Format;
  using F16 = F16Format;
  using F8 = F8Format;
  struct Half {
    static float One(std::uint16_t bits) { return _cvtsh_ss(bits); }
  };
};

}  // namespace

void Attention(const AttentionArgs& args) { AttentionOf<Simd, Formats>(args); }
void KvDecode(const KvDecodeArgs& args) { KvDecodeOf<Simd, Formats>(args); }

}  // namespace tandem::cpu::avx512
