#pragma once

#include <string>
#include <string_view>

namespace tandem {

// The byte alphabet of byte-level BPE: every byte is written as one printable character; those that
// are none themselves are U+0100 and up (a space is U+0120).
std::string_view ByteCharacter(unsigned char byte);

// The bytes that a token's content stands for. A content with characters outside of the alphabet
// stands for itself.
std::string BytesOfContent(std::string_view content);

// Bytes written in the alphabet.
std::string ContentOfBytes(std::string_view bytes);

// For messages: in quotes, control characters escaped, shortened.
std::string QuotedToken(std::string_view content);

}  // namespace tandem
