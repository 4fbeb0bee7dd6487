# cmake -DFOLDER=.. -DOUTPUT=.. -P embed_page.cmake: the C++ source of DashboardPage(), FOLDER's page with its style and
# scripts in it.
file(READ ${FOLDER}/dashboard.html page)
file(READ ${FOLDER}/dashboard.css style)
file(READ ${FOLDER}/metrics.js metrics)
file(READ ${FOLDER}/dashboard.js script)
string(REPLACE "@STYLE@" "${style}" page "${page}")
string(REPLACE "@SCRIPT@" "${metrics}\n${script}" page "${page}")
file(WRITE ${OUTPUT} "#include \"runtime/serve/dashboard/dashboard_page.h\"

namespace tokenferry {

absl::string_view DashboardPage() {
  return R\"page(${page})page\";
}

}  // namespace tokenferry
")
