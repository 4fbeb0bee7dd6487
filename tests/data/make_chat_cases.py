#!/usr/bin/env python3
"""Writes tests/data/chat/language.json: small templates, and what jinja2 makes of them as transformers sets it up.

    pip install jinja2==3.1.6 && python3 tests/data/make_chat_cases.py

{"now", "variables" (always passed), "cases": [{"template", "expected"} or {"template", "fails": true}]}.
"""
import datetime
import json
import os

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 3, 7, 14, 5, 9)
VARIABLES = {
    "s": "Hello, Wörld!", "empty": "", "n": 7, "neg": -3, "f": 2.5, "big": 18446744073709551615, "yes": True, "no": False,
    "nothing": None, "l": ["b", "a", "C", "a"], "nums": [3, 1, 2], "nested": [[1, 2], [3, [4, None]]], "none_list": [],
    "d": {"z": 1, "a": {"b": [1.0, 1e20, 1e-7, "é\n\"x\""]}, "items": "key", "k'": True, "10": None}, "space": "  \t x y  \n",
    "text": "one two  three\nfour\r\nfive\u2028six ", "cjk": "你好😀é", "q": "it's \"q\"", "path": "a/b/c.d.e",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U1"},
                 {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}, {"role": "user", "content": "U2 </x> y"}],
    "people": [{"name": "Bo", "age": 30, "a": {"b": 2}}, {"name": "al", "age": 25, "a": {"b": 1}}, {"name": "Cy", "age": 30}],
    "ctl": "\x00\x07\x1f\x7f\u200b\u00a0", "html": "<a href='x'>&\"</a>",
}

TEMPLATES = r"""
{{ s }}|{{ empty }}|{{ n }}|{{ neg }}|{{ f }}|{{ big }}|{{ yes }}|{{ nothing }}|{{ missing }}|{{ nums }}|{{ d }}
{{ nested }} {{ q }} {{ [q, s, ctl, cjk] }} {{ (1,) }} {{ (1, 2) }} {{ () }} {{ {} }} {{ {'a': 1, 2: 'b'} }} {{ [none, true, 1.0, -0.0] }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1e3 }} {{ 10 / 2 }}
{{ -n }} {{ +n }} {{ - -n }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ 1 ~ 2 ~ 'x' ~ none ~ missing }} {{ 'a' 'b' }} {{ 1_000 }} {{ 0.1 + 0.2 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 > 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 'a' == 1 }} {{ none == none }} {{ missing == other }}
{{ 'a' in 'abc' }} {{ 'a' not in l }} {{ 'z' in d }} {{ 2 in nums }} {{ 'x' in missing }} {{ not 'a' in 'b' }} {{ (not yes) in [false] }}
{{ yes and n }} {{ no and n }} {{ no or empty or 'x' }} {{ nothing or [] }} {{ not no and not nothing }} {{ yes or missing.x }}
{{ 'a' if yes else 'b' }} {{ 'a' if no }}| {{ 'a' if no else 'b' if no else 'c' }} {{ ('x' if yes else 'y') ~ 'z' }}
{{ s[0] }} {{ s[-1] }} {{ s[7:] }} {{ s[:-1] }} {{ s[::-1] }} {{ s[::2] }} {{ s[5:2:-1] }} {{ s[100:] }} {{ cjk[1:3] }} {{ cjk[-1] }} {{ s[100] }} {{ cjk[::-1] }}
{{ l[1:] }} {{ l[::-1] }} {{ l[-2:] }} {{ l[10] }} {{ l[:n-4] }} {{ l[none:2] }} {{ nums[0:2][1] }} {{ (1,2,3)[1:] }} {{ l['x'] }}
{{ d.z }} {{ d['z'] }} {{ d.a.b[3] }} {{ d['items'] }} {{ d.missing }} {{ d['missing'] }} {{ d.get('z') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d.items is callable }}
{{ d.keys() | list }} {{ d.values() | list | length }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {{ d | length }} {{ d | list }}
{% for x in nums %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for x in nums %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.cycle('a', 'b') }} {{ loop.changed(x > 1) }} {{ loop.depth }};{% endfor %}
{% for x in none_list %}x{% else %}none{% endfor %}{% for x in nums if x > 1 %}{{ loop.index }}:{{ x }} {{ loop.length }} {% else %}no{% endfor %}{% for x in nums if x > 9 %}{% else %}no{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for k in d %}{{ k }},{% endfor %}{% for c in cjk %}{{ c }}.{% endfor %}
{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %} {% for i in range(10, 0, -3) %}{{ i }} {% endfor %}{{ range(3) | list }}
{% for x in nested recursive %}{% if x is iterable %}[{{ loop(x) }}]{{ loop.depth0 }}{% else %}{{ x }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in nums %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if yes %}{% set x = 3 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b='x') %}{% for i in nums %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns['a'] }}
{% set ns = namespace() %}{% set ns.found = false %}{% for m in messages %}{% if m.role == 'user' and not ns.found %}{% set ns.found = true %}{{ loop.index0 }}{% endif %}{% endfor %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a = [1, 2] %}{{ a[1] }}{% set t = 1, 2 %}{{ t }}{% set x %}block {{ n }}{% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]
{% macro m(a, b='B', c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(a=3, c=4) }}{{ m() }}{{ m(1, c=[5]) | trim(';') }}
{% macro rec(x, depth=0) %}{{ '  ' * depth }}{% if x is mapping %}{% for k, v in x | items %}{{ k }}{{ rec(v, depth + 1) }}{% endfor %}{% else %}{{ x }}{% endif %}{% endmacro %}{{ rec(d) }}
{% macro outer() %}{{ late }}{{ n }}{% endmacro %}{% set late = 'set later' %}{{ outer() }}{% for n in [9] %}{{ outer() }}{% endfor %}
{% macro wrap(tag) %}<{{ tag }}>{{ caller(tag) }}</{{ tag }}>{% endmacro %}{% call(t) wrap('b') %}in {{ t }} {{ n }}{% endcall %}{% macro plain() %}{{ caller() }}{% endmacro %}{% call plain() %}x{% endcall %}
{% macro va(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ va(1, 2, 3, k=4) }}
{% with x = 1, y = n %}{{ x }}{{ y }}{% endwith %}{{ x }}{% filter upper %}abc {{ s }}{% endfilter %}{% generation %}g{{ n }}{% endgeneration %}
{% raw %}{{ not }} {% this %}{% endraw %}|{# comment {{ x }} #}|{%- raw -%}  x  {%- endraw -%}  y
a{#- c -#}  b{{- 1 -}}  c {{ 2 }} {%- if yes -%}  d  {%- endif -%}  e{%+ if yes +%} f{% endif %}
line1
  {% if yes %}
    kept
  {% endif %}
  {{ n }}
  {# gone #}
tail\n
{% if yes %}\nA\n\n{% endif %}\n\nB{% if no %}x{% elif n == 7 %}seven{% else %}y{% endif %}{% if no %}x{% elif no %}y{% else %}else{% endif %}
   {%- if yes %}x{% endif %}   \n   {%+ if yes %}y{% endif %}\n\t{% if yes %}z{% endif -%}\n\n  w
{{ l | join(', ') }} {{ nums | join }} {{ people | join('+', attribute='name') }} {{ [1, none, missing, 'x'] | join('-') }} {{ 'abc' | join('.') }}
{{ l | first }} {{ l | last }} {{ none_list | first }}| {{ s | first }} {{ s | last }} {{ l | length }} {{ cjk | length }} {{ d | count }} {{ missing | length }}
{{ l | sort }} {{ l | sort(case_sensitive=true) }} {{ l | sort(reverse=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ nums | sort | reverse | list }} {{ s | reverse }}
{{ l | unique | list }} {{ people | unique(attribute='age') | map(attribute='name') | join }} {{ nums | sum }} {{ people | sum(attribute='age') }} {{ nums | min }} {{ nums | max }} {{ l | max }} {{ none_list | min }}|
{{ people | map(attribute='a.b', default='-') | list }} {{ l | map('upper') | list }} {{ nums | map('string') | join('|') }} {{ l | map('replace', 'a', 'x') | list }} {{ people | map(attribute='name') | map('lower') | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | list }} {{ messages | selectattr('tool_calls', 'defined') | list | length }} {{ people | selectattr('a') | list | length }}
{{ nums | select('odd') | list }} {{ nums | reject('gt', 1) | list }} {{ [0, 1, none, 'x'] | select | list }} {{ nums | select('divisibleby', 3) | list }} {{ l | select('in', ['a']) | list }} {{ l | reject('equalto', 'a') | list }}
{% if none_list | select %}generator is true{% endif %}{% set g = nums | map('string') %}{{ g | list }}{{ g | list }}{{ nums | batch(2) | list }} {{ nums | batch(2, 0) | list }}
{{ d | dictsort }} {{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(by='value') }} {{ d | items | list | length }} {% for g, items in people | groupby('age') %}{{ g }}:{{ items | map(attribute='name') | join(',') }} {% endfor %}
{{ missing | default('x') }} {{ empty | default('x') }} {{ empty | default('x', true) }} {{ nothing | default('x') }} {{ nothing | d('x', boolean=true) }} {{ missing | default }}| {{ d.q.r | default('no') if d.q is defined else 'ok' }}
{{ space | trim }}| {{ 'xxaxx' | trim('x') }} {{ s | upper }} {{ s | lower }} {{ 'hELLO wORLD' | capitalize }} {{ "they're bill's-friends (from) the UK" | title }} {{ 'straße' | upper }} {{ n | trim }}
{{ s | replace('l', 'L') }} {{ s | replace('l', 'L', 1) }} {{ 'aaa' | replace('a', 'bb') }} {{ 'ab' | replace('', '-') }} {{ n | string + 'x' }} {{ [1] | string }} {{ none | string }}
{{ text | indent }}|{{ text | indent(2, true) }}|{{ text | indent(width='> ', blank=true) }}|{{ 'a\n\nb\n' | indent(1) }}| {{ text | wordcount }}
{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, true) }} {{ 'foo bar baz qux' | truncate(11) }} {{ 'foo bar baz qux' | truncate(9, false, '…') }} [{{ 'x' | center(5) }}] [{{ 'xy' | center(5) }}]
{{ '42' | int }} {{ '4.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ 3.99 | int }} {{ -3.99 | int }} {{ true | int }} {{ '2.50' | float }} {{ 'x' | float }} {{ 3 | float }} {{ -5 | abs }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(method='ceil') | int }} {{ 2.55 | round(1, 'floor') }}
{{ html | e }} {{ html | escape | length }} {{ html | safe }} {{ 'a b/c&d' | urlencode }} {{ '%s is %d and %.2f %%' | format('x', 5, 2.345) }} {{ '%s-%s' % ('a', 1) }} {{ '%s' % 'x' }} {{ 'n=%r' % q }}
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ l | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': {}} | tojson(sort_keys=true) }} {{ cjk | tojson }} {{ cjk | tojson(ensure_ascii=true) }} {{ [] | tojson(indent=4) }} {{ ctl | tojson }} {{ html | tojson }}
{{ [none, true, 1.5, 1e100, big, -1, {'1': (1, 2)}] | tojson }} {{ nested | tojson(indent=1) }} {{ {1: 2, none: 3, true: 4} | tojson }} {{ 'a' | tojson(false, 4) }} {{ d | tojson(indent='\t') }}
{{ s is string }} {{ n is number }} {{ n is integer }} {{ f is float }} {{ yes is boolean }} {{ yes is number }} {{ yes is integer }} {{ d is mapping }} {{ l is sequence }} {{ d is sequence }} {{ s is sequence }} {{ n is sequence }} {{ missing is sequence }}
{{ l is iterable }} {{ n is iterable }} {{ missing is iterable }} {{ none is none }} {{ missing is none }} {{ missing is defined }} {{ missing is undefined }} {{ none is defined }} {{ d.q is defined }} {{ d.q is not none }} {{ range is callable }} {{ s is callable }}
{{ 3 is odd }} {{ 3 is even }} {{ 9 is divisibleby 3 }} {{ 1 is sameas 1 }} {{ 1 is sameas true }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 'a' is in 'abc' }} {{ 2 is in nums }} {{ 1 is eq 1 }} {{ 1 is lt 2 }} {{ 'a' is equalto('a') }} {{ 'ab' is lower }} {{ 'AB' is upper }} {{ 'upper' is filter }} {{ 'odd' is test }}
{{ n is defined and n > 3 }} {{ not n is string }} {{ n is not string and yes }} {{ 'y' if n is number else 'z' }} {{ s is string or 1 }} {{ -1 is number }} {{ (n is number) is true }}
{{ text.split() }} {{ text.split(' ') }} {{ text.split(None, 1) }} {{ text.rsplit(' ', 1) }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,,c'.split(',', 2) }} {{ ''.split() }} {{ ''.split(',') }} {{ ' a b '.rsplit(None, 1) }} {{ text.splitlines() }}
{{ space.strip() }}| {{ space.lstrip() }}| {{ space.rstrip() }}| {{ 'xyaxy'.strip('yx') }} {{ 'aab'.lstrip('a') }} {{ 'baa'.rstrip('a') }} {{ '\n\na\n'.strip('\n') }} {{ s.startswith('He') }} {{ s.endswith(('x', '!')) }} {{ s.startswith('l', 2) }} {{ s.startswith('Hello', 0, 3) }}
{{ s.upper() }} {{ s.title() }} {{ "it's a b2b".title() }} {{ s.swapcase() }} {{ 'abc'.capitalize() }} {{ s.find('l') }} {{ s.rfind('l') }} {{ s.find('zz') }} {{ cjk.find('é') }} {{ s.index('W') }} {{ s.count('l') }} {{ 'aaa'.count('aa') }} {{ 'ab'.count('') }} {{ s.replace('l', '').replace('o', '0', 1) }}
{{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'é'.isalpha() }} {{ ' \t'.isspace() }} {{ ''.isdigit() }} {{ 'AB1'.isupper() }} {{ 'ab'.islower() }} {{ '²'.isdigit() }} {{ '½'.isnumeric() }} {{ '²'.isdecimal() }} {{ '-'.join(['a', 'b']) }} {{ ','.join(d.keys()) }}
{{ 'pre-x'.removeprefix('pre-') }} {{ 'x.py'.removesuffix('.py') }} {{ path.partition('/') }} {{ path.rpartition('.') }} {{ path.partition('zz') }} [{{ 'x'.ljust(3) }}] [{{ 'x'.rjust(3, '.') }}] [{{ 'x'.center(4, '-') }}] {{ '{} {}'.format(1, 'a') }} {{ '{1}{0} {k} {{}}'.format('a', 'b', k=none) }}
{{ [1, 2] + [3] }} {{ (1,) + (2,) }} {{ 'ab' * 3 }} {{ 2 * [0] }} {{ 'x' * -1 }}| {{ [1, 2, 1].count(1) }} {{ nums.index(2) }} {{ [[1]] == [[1]] }} {{ {'a': 1} == {'a': 1.0} }} {{ (1, 2) == [1, 2] }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %j %a %A %b %B %y %I %p %-d %%') }} {{ strftime_now('%d %b %Y') }} {{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ namespace({'a': 5}).a }}
{{ 'a\tb\\n\'\x41\u00e9\U0001F600\q' }} {{ "dq 'in' it" }} {{ "a
b" }}
{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages[-1].content.split('</x>')[-1] }} {{ messages[2].tool_calls[0].id }} {{ messages[1:][0].content }} {{ messages.0.role }} {{ messages | map(attribute='role') | unique | join(' ') }}
{% for m in messages[::-1] %}{% set i = (messages | length - 1) - loop.index0 %}{{ i }}{{ m.role[0] }}{% endfor %}{% for i in range(messages | length - 1, -1, -1) %}{{ messages[i].role[:1] }}{% endfor %}
{% for m in messages %}{% if loop.first or loop.previtem.role != m.role %}[{{ m.role }}]{% endif %}{% if m.content is none %}-{% elif m.content is string %}{{ m.content }}{% endif %}{% if not loop.last %}, {% endif %}{% endfor %}
{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}{%- if m['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}{{ ns.last }}{{ raise_exception is defined }}
{{ {'a': {'b': 1}}.a.b }} {{ [1, 2, 3][1] }} {{ (n + 1) | string ~ 'x' }} {{ n | string | length }} {{ [n, s][0] }} {{ 'abc'[1] | upper }} {{ not (yes and no) }} {{ (1 if no else 2) + 1 }} {{ l[0] ~ l[1] }} {{ {1: 'x'}[1] }}
{{ {"k": "v",} }} {{ [1, 2,] }} {{ '}}' }} {{ {'a': {'b': {}}} }} {{ "{%" }} {% if '%}' == '%}' %}ok{% endif %} {{ {'}}': 1} | length }}
{{ missing.x }}
{{ nothing.x.y }}
{{ missing + 1 }}
{{ missing() }}
{{ n() }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ 'a' < 1 }}
{{ 1 // 0 }}
{{ n | length }}
{{ [1, 'a'] | sort }}
{% for x in n %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{{ l.append(1) }}
{{ d.update({'x': 1}) }}
{{ raise_exception('no ' ~ n) }}
{{ missing | tojson }}
{{ range(1000000) | list }}
{{ none_list | map('string') | last }}
{{ nums | map('string') | length }}
{% set d.x = 1 %}
{{ s.index('zz') }}
{{ 'x'.split('') }}
{{ s.nosuch() }}
{% if %}{% endif %}
{{ }}
{{ 1 + }}
{{ (1 }}
{{ [1 }}
{% for x in %}{% endfor %}
{% for x nums %}{% endfor %}
{% if yes %}
{% endif %}
{% unknown %}
{{ x | nosuchfilter }}
{{ x is nosuchtest }}
{% set x %}
{% macro %}{% endmacro %}
{# open
{% raw %} open
{{ 'open }}
{{ x.1.2.y.( }}
{% set true = 1 %}
{% break %}
{{ f(a=1, 2) }}
{{ f(a=1, a=2) }}
{{ loop.index }}
{% else %}
""".strip("\n")


class Generation(Extension):
    """transformers' {% generation %}: its body, in a scope of its own."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return env


def templates():
    """One a line; a line that begins in column 1 with "line1" and what follows it up to "tail" is one template."""
    lines, out, joined = TEMPLATES.split("\n"), [], None
    for line in lines:
        opens = line == "line1" or line.endswith('{{ "a')
        if joined is not None:
            joined.append(line)
            if line.startswith("tail") or line == 'b" }}':
                out.append("\n".join(joined))
                joined = None
        elif opens:
            joined = [line]
        else:
            out.append(line.replace("}\\n", "}\n").replace("\\n{", "\n{").replace("   \\n", "   \n")
                       .replace("-%}\\n\\n", "-%}\n\n").replace("\\nA\\n\\n", "\nA\n\n").replace("\\n\\nB", "\n\nB"))
    return out


def main():
    env, cases = environment(), []
    for template in templates():
        try:
            cases.append({"template": template, "expected": env.from_string(template).render(**VARIABLES)})
        except Exception as error:  # of any kind: what matters is that it fails
            cases.append({"template": template, "fails": True, "error": f"{type(error).__name__}: {error}"})
    here = os.path.dirname(os.path.abspath(__file__))
    with open(f"{here}/chat/language.json", "w", encoding="utf-8") as out:
        json.dump({"jinja2": jinja2.__version__, "now": NOW.isoformat(), "variables": VARIABLES, "cases": cases}, out,
                  indent=1, ensure_ascii=True)
        out.write("\n")
    print(len(cases), "cases,", sum("fails" in case for case in cases), "fail")


if __name__ == "__main__":
    main()
