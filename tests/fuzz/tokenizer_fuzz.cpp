// Any text as tokenizer.json: it is refused with an error of ours, or it gives a tokenizer that
// encodes and decodes a hard text without harm.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "memory/error.h"
#include "model/tokenizer.h"

namespace {

const std::string& HardText() {
  static const std::string text =
      std::string(
          "Hello  world's\r\n\n\t 1234567 \xC2\xA0\xE3\x80\x80 na\xC3\xAFve e\xCC\x81\xCC\x82"
          " \xE6\x97\xA5\xE6\x9C\xAC <s>\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7 !?.. ") +
      std::string(100, 'a') + std::string(100, ' ') + "\xC3\xB6 \xED\xA0\x80 \xE2\x82";
  return text;
}

// Bytes of which there is no token are refused as the caller's fault.
void EncodeHardText(const tandem::Tokenizer& tokenizer, tandem::Tokenizer::Special special) {
  try {
    const auto ids = tokenizer.Encode(HardText(), special);
    tokenizer.Decode(ids, true);
    tandem::StreamDecoder decoder(tokenizer);
    for (const std::int32_t id : ids) decoder.Push(id);
    decoder.Finish();
  } catch (const tandem::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const tandem::Tokenizer tokenizer(text, "tokenizer.json");
    EncodeHardText(tokenizer, tandem::Tokenizer::Special::kParse);
    EncodeHardText(tokenizer, tandem::Tokenizer::Special::kText);
  } catch (const tandem::Error&) {
  }
  return 0;
}
