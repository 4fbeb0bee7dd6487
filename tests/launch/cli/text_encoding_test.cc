#include "launch/cli/text_encoding.h"

#include <gtest/gtest.h>

#include <string>

namespace tokenferry {
namespace {

std::string Encode(const std::u32string& text, int unit_bytes, bool big_endian) {
  std::string bytes;
  const auto put = [&](uint32_t unit) {
    for (int i = 0; i < unit_bytes; ++i) {
      const int place = big_endian ? unit_bytes - 1 - i : i;
      bytes.push_back(static_cast<char>(unit >> (8 * place)));
    }
  };
  for (const char32_t c : text) {
    if (unit_bytes == 4 || c < 0x10000) {
      put(c);
    } else {
      put(0xD800 + ((c - 0x10000) >> 10));
      put(0xDC00 + ((c - 0x10000) & 0x3FF));
    }
  }
  return bytes;
}

const std::u32string kTexts[] = {
    U"In the beginning God created the heaven and the earth.\r\n",
    U"ok",
    U"\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440\n",                   // Cyrillic
    U"\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\n",  // Arabic
    U"\u4f60\u597d\uff0c\u4e16\u754c\u3002\u8fd9\u662f\u4e00\n",                     // Chinese
    U"\u3053\u3093\u306b\u3061\u306f\n",                                             // Hiragana
    U"smile \U0001f600 and more text than that\n",
};

TEST(WideEncoding, IsSeenWithAndWithoutAMark) {
  for (const std::u32string& text : kTexts) {
    for (const bool big_endian : {false, true}) {
      const std::string end = big_endian ? "BE" : "LE";
      EXPECT_EQ(WideEncoding(Encode(text, 2, big_endian)), "UTF-16" + end) << Encode(text, 2, big_endian);
      EXPECT_EQ(WideEncoding(Encode(U"\ufeff" + text, 2, big_endian)), "UTF-16");
      EXPECT_EQ(WideEncoding(Encode(U"\ufeff" + text, 4, big_endian)), "UTF-32");
      if (text.size() > 1 && text[0] < 0x900) {
        EXPECT_EQ(WideEncoding(Encode(text, 4, big_endian)), "UTF-32" + end);
      }
    }
  }
}

TEST(WideEncoding, TextsOfSingleBytesAreNone) {
  const std::string texts[] = {
      "",
      "a",
      "In the beginning\n",
      "caf\xe9 and na\xefve",                // Latin-1
      "\xEF\xBB\xBFwith the mark of UTF-8",  //
      std::string("\0", 1),
      std::string("a\0", 2),
      std::string("a\0b", 3),
      std::string("a\0bc", 4),
      std::string("ab\0cd\0", 6),
      std::string("name\0value\0", 11),
      std::string("\0\0\0\0", 4),
      std::string("caf\xe9\0x", 6),
      "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82",  // Cyrillic in UTF-8
      "\xe4\xbd\xa0\xe5\xa5\xbd",
  };
  for (const std::string& text : texts) EXPECT_EQ(WideEncoding(text), "") << text;
}

}  // namespace
}  // namespace tokenferry
