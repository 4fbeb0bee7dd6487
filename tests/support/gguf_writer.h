// GGUF files for tests, well-formed or damaged.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/checkpoint_writer.h"

namespace tokenferry::testing {

class GgufWriter {
 public:
  uint32_t version = 3;
  std::optional<uint64_t> num_tensors, num_keys;  // instead of what is true

  template <class T>
  static std::string Raw(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof(value)};
  }
  static std::string Raw(const std::string& text) { return Raw(uint64_t{text.size()}) + text; }

  GgufWriter& Key(const std::string& key, uint8_t value) { return RawKey(key, 0, Raw(value)); }
  GgufWriter& Key(const std::string& key, uint16_t value) { return RawKey(key, 2, Raw(value)); }
  GgufWriter& Key(const std::string& key, uint32_t value) { return RawKey(key, 4, Raw(value)); }
  GgufWriter& Key(const std::string& key, int64_t value) { return RawKey(key, 11, Raw(value)); }
  GgufWriter& Key(const std::string& key, float value) { return RawKey(key, 6, Raw(value)); }
  GgufWriter& Key(const std::string& key, bool value) { return RawKey(key, 7, Raw(static_cast<uint8_t>(value))); }
  GgufWriter& Key(const std::string& key, const char* value) { return RawKey(key, 8, Raw(std::string(value))); }
  GgufWriter& Key(const std::string& key, const std::vector<std::string>& list) {
    return List(key, 8, list.size(), [&](size_t i) { return Raw(list[i]); });
  }
  GgufWriter& Key(const std::string& key, const std::vector<float>& list) {
    return List(key, 6, list.size(), [&](size_t i) { return Raw(list[i]); });
  }
  GgufWriter& Key(const std::string& key, const std::vector<int32_t>& list) {
    return List(key, 5, list.size(), [&](size_t i) { return Raw(list[i]); });
  }
  GgufWriter& RawKey(const std::string& key, uint32_t type, const std::string& value) {
    keys_ += Raw(key) + Raw(type) + value;
    ++key_count_;
    uint32_t alignment = 0;
    if (key == "general.alignment") std::memcpy(&alignment, value.data(), sizeof(alignment));
    if (alignment > 0 && alignment <= 64) alignment_ = alignment;
    return *this;
  }

  // `dims`: the fastest first. The data goes behind that of the tensors before.
  GgufWriter& Tensor(const std::string& name, uint32_t type, std::vector<uint64_t> dims, const std::string& data) {
    RawTensor(name, type, std::move(dims), data_.size());
    data_ += data;
    end_ = data_.size();
    data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_);
    return *this;
  }
  GgufWriter& RawTensor(const std::string& name, uint32_t type, std::vector<uint64_t> dims, uint64_t offset) {
    tensors_ += Raw(name) + Raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) tensors_ += Raw(dim);
    tensors_ += Raw(type) + Raw(offset);
    ++tensor_count_;
    return *this;
  }

  std::string Bytes() const {
    std::string bytes = "GGUF" + Raw(version) + Raw(num_tensors.value_or(tensor_count_)) +
                        Raw(num_keys.value_or(key_count_)) + keys_ + tensors_;
    if (end_ > 0) bytes.resize((bytes.size() + alignment_ - 1) / alignment_ * alignment_);
    return bytes + data_.substr(0, end_);
  }

 private:
  template <class Element>
  GgufWriter& List(const std::string& key, uint32_t type, size_t count, const Element& element) {
    std::string value = Raw(type) + Raw(uint64_t{count});
    for (size_t i = 0; i < count; ++i) value += element(i);
    return RawKey(key, 9, value);
  }

  uint64_t key_count_ = 0, tensor_count_ = 0;
  uint32_t alignment_ = 32;
  std::string keys_, tensors_, data_;
  size_t end_ = 0;  // of the data, without padding
};

}  // namespace tokenferry::testing
