// libsentencepiece, seen through the standard library alone: its header defines absl::string_view for itself, and so
// cannot be included where Abseil is. Private to sentencepiece_model.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tokenferry {

class SentencePieceLibrary {
 public:
  enum class Kind : uint8_t { kNormal, kUnknown, kControl, kUnused, kByte };
  struct Piece {
    std::string text;
    Kind kind;
  };

  SentencePieceLibrary();
  ~SentencePieceLibrary();
  SentencePieceLibrary(const SentencePieceLibrary&) = delete;
  SentencePieceLibrary& operator=(const SentencePieceLibrary&) = delete;

  // The model in these bytes. Not empty: what is wrong with them.
  std::string Load(const std::string& bytes);
  std::vector<Piece> Pieces() const;  // by id
  int bos_id() const;                 // -1: none
  int eos_id() const;
  std::vector<int> Encode(std::string_view text) const;  // any thread

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace tokenferry
