// TF_CHECK*: our own broken invariants only. Prints both operands and the place, then aborts.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace tokenferry::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const char* expr, const std::string& detail);

template <class A, class B>
std::string Operands(const A& a, const B& b) {
  std::ostringstream out;
  out << a << " vs " << b;
  return out.str();
}

}  // namespace tokenferry::internal

#define TF_CHECK(cond)                                                               \
  do {                                                                               \
    if (!(cond)) ::tokenferry::internal::CheckFailed(__FILE__, __LINE__, #cond, ""); \
  } while (false)

#define TF_CHECK_OP(op, a, b)                                                              \
  do {                                                                                     \
    const auto& tf_a_ = (a);                                                               \
    const auto& tf_b_ = (b);                                                               \
    if (!(tf_a_ op tf_b_)) {                                                               \
      ::tokenferry::internal::CheckFailed(__FILE__, __LINE__, #a " " #op " " #b,           \
                                          ::tokenferry::internal::Operands(tf_a_, tf_b_)); \
    }                                                                                      \
  } while (false)

#define TF_CHECK_EQ(a, b) TF_CHECK_OP(==, a, b)
#define TF_CHECK_NE(a, b) TF_CHECK_OP(!=, a, b)
#define TF_CHECK_LT(a, b) TF_CHECK_OP(<, a, b)
#define TF_CHECK_LE(a, b) TF_CHECK_OP(<=, a, b)
#define TF_CHECK_GE(a, b) TF_CHECK_OP(>=, a, b)
#define TF_CHECK_GT(a, b) TF_CHECK_OP(>, a, b)
