#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "memory/error.h"

namespace tandem::test {

// Expects `act` to throw exactly the error class E, with that code, and every word in its message.
template <class E, class Act>
void ExpectError(ExitCode code, std::initializer_list<std::string_view> words, Act act) {
  try {
    act();
  } catch (const E& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const std::string_view word : words) {
      EXPECT_NE(std::string_view(error.what()).find(word), std::string_view::npos)
          << "no '" << word << "' in: " << error.what();
    }
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
    return;
  } catch (const std::exception& error) {
    FAIL() << "another class of error: " << error.what();
  }
  FAIL() << "nothing was thrown";
}

template <class Act>
void ExpectBadData(std::initializer_list<std::string_view> words, Act act) {
  ExpectError<CheckpointError>(ExitCode::kBadData, words, act);
}

}  // namespace tandem::test
