// Families of tests/data/families in GGUF files.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tokenferry {

// A family of tests/data/families, and what its converter writes: keys behind the architecture's name, by those of
// config.json or as they are.
struct Conversion {
  std::string family, architecture;
  std::map<std::string, std::string> keys;
  nlohmann::json values = nlohmann::json::object();
  bool permutes = false;                                        // rows of q and k, from halves of a head to pairs
  bool splits_kv_b = false;                                     // into keys, transposed, and values
  std::map<std::string, std::vector<float>> rope_factors = {};  // tensors of factors
};

// Writes the family's checkpoint as its converter would, all tensors in F32.
void WriteConverted(const Conversion& conversion, const std::string& path);

}  // namespace tokenferry
