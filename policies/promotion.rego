# Whether a version may take an alias such as `production`.
#
# Default deny: `allow` demands that every fact and every bound is `satisfied`, and that no rule refuses. Only where
# something is not satisfied, `objections` say in sentences what (they take several times as long). A rule that cannot be
# evaluated (a value of the wrong type, a key that is missing) is undefined in Rego, so it can only take away from `allow`.
# Rules of one's own add to `refused`, in files beside this one.
#
# input:
#   to                       "production"
#   require                  {metric: {"at_least": number, "at_most": number, "not_below_base": bool,
#                            "not_significantly_worse_than": alias}}
#   require_quantized_within optional {quantization type: number}, how far its metrics may lie apart
#   metrics, base_metrics    {metric: number}; a number that is not finite arrives as a string
#   quantized_metrics        {quantization type: {metric: number}}
#   comparisons              optional {metric: {"alias", "version", "verdict"}} with the version that the alias names now,
#                            on the examples of both: verdict is better, worse or no evidence (then with score,
#                            rival_score, difference, low, high, p_value, examples), no rival (no other version is
#                            there) or unknown (then with problem)
#   evaluated, signed        the version was measured; its manifest is signed
#   frozen                   its files can no longer change
#   dataset_digest           sha256 of the data set it was trained on
#
# For rego-cpp, which evaluates it (1.5.2): `every` is never true with another one, or an assignment, inside, so the
# metrics of which something holds are a set; a function of one's own costs more than a rule, so `satisfied` calls none;
# sprintf keeps the quotes of some strings, so sentences are made by concat.

package raymill.promotion

import rego.v1

decision := {"allow": allow, "refused": sort(refused)}

default allow := false

allow if {
	count(refused) == 0
	satisfied
}

refused contains sentence if {
	not satisfied
	some sentence in objections
}

# --- what must hold ----------------------------------------------------------------------------------------

satisfied if {
	input.evaluated == true
	input.signed == true
	input.frozen == true
	is_string(input.to)
	is_string(input.dataset_digest)
	input.dataset_digest != ""
	is_object(input.require)
	count(input.require) > 0
	count(within_bounds) == count(input.require)
	asked_beside_rival == not_worse_than_rival
	is_object(within)
	count(near_enough) == count(within) * count(input.require)
}

within_bounds contains metric if {
	some metric, bounds in input.require
	value := input.metrics[metric]
	is_number(value)
	least := object.get(bounds, "at_least", value)
	is_number(least)
	value >= least
	most := object.get(bounds, "at_most", value)
	is_number(most)
	value <= most
	base := {false: value, true: object.get(bases, metric, "missing")}[object.get(bounds, "not_below_base", false)]
	is_number(base)
	value >= base
	object.keys(bounds) - known == set()
	count({key | bounds[key] != false}) > 0
}

default bases := {}

bases := input.base_metrics if is_object(input.base_metrics)

asked_beside_rival contains metric if {
	some metric, bounds in input.require
	bounds.not_significantly_worse_than != false
}

not_worse_than_rival contains metric if {
	some metric, bounds in input.require
	alias := bounds.not_significantly_worse_than
	is_string(alias)
	input.comparisons[metric].alias == alias
	input.comparisons[metric].verdict in {"better", "no evidence", "no rival"}
}

near_enough contains [type, metric] if {
	some type, tolerance in within
	is_number(tolerance)
	tolerance >= 0
	some metric, _ in input.require
	value := input.quantized_metrics[type][metric]
	full := input.metrics[metric]
	is_number(value)
	is_number(full)
	abs(value - full) <= tolerance + 0.000000001
}

# --- what is asked -----------------------------------------------------------------------------------------

facts := {"evaluated", "signed", "frozen"}

known := {"at_least", "at_most", "not_below_base", "not_significantly_worse_than"}

default target := "the alias"

target := input.to if is_string(input.to)

default within := {}

within := input.require_quantized_within if input.require_quantized_within != null

# Keys that ask for something; `not_below_base: false` asks for nothing.
demanding(bounds) := {key | bounds[key] != false}

met(metric, "at_least", bound) if {
	is_number(bound)
	input.metrics[metric] >= bound
}

met(metric, "at_most", bound) if {
	is_number(bound)
	input.metrics[metric] <= bound
}

met(metric, "not_below_base", true) if {
	is_number(input.base_metrics[metric])
	input.metrics[metric] >= input.base_metrics[metric]
}

met(metric, "not_significantly_worse_than", alias) if {
	is_string(alias)
	compared(metric, "alias") == alias
	compared(metric, "verdict") in {"better", "no evidence", "no rival"}
}

# 0.97 - 0.95 is a little more than 0.02 in floating point; nobody measures to nine digits.
near(a, b, tolerance) if {
	is_number(a)
	is_number(b)
	is_distance(tolerance)
	abs(a - b) <= tolerance + 0.000000001
}

is_distance(tolerance) if {
	is_number(tolerance)
	tolerance >= 0
}

metric_of(metrics, metric) := object.get(object.get(input, metrics, {}), metric, "missing")

compared(metric, key) := object.get(object.get(object.get(input, "comparisons", {}), metric, {}), key, "missing")

quantized(type, metric) := object.get(object.get(object.get(input, "quantized_metrics", {}), type, {}), metric, "missing")

# A value inside a sentence.
shown(value) := value if is_string(value)

shown(value) := sprintf("%v", [value]) if is_number(value)

shown(value) := "true" if value == true

shown(value) := "false" if value == false

shown(value) := "null" if is_null(value)

shown(value) := "a list" if is_array(value)

shown(value) := "an object" if is_object(value)

# --- what stands against it, where it is not satisfied -------------------------------------------------------

objections contains sentence if {
	not is_string(input.to)
	sentence := "to is missing: name the alias to move, such as production"
}

objections contains sentence if {
	some fact in facts
	value := object.get(input, fact, "missing")
	value != true
	sentence := concat("", [fact, " is ", shown(value), ", ", target, " requires true"])
}

objections contains sentence if {
	not trained_on_known_data
	sentence := concat("", ["dataset_digest is missing, ", target, " requires a version whose data set is known"])
}

trained_on_known_data if {
	is_string(input.dataset_digest)
	input.dataset_digest != ""
}

objections contains sentence if {
	required := object.get(input, "require", {})
	not is_object(required)
	sentence := concat("", ["require is ", shown(required), ": give it metrics with their bounds"])
}

objections contains sentence if {
	count(object.get(input, "require", {})) == 0
	sentence := concat("", ["require is empty, ", target, " requires a bound on at least one metric"])
}

objections contains sentence if {
	some metric, bounds in input.require
	count(demanding(bounds)) == 0
	sentence := concat("", [metric, " has no bound: give it at_least, at_most, not_below_base or not_significantly_worse_than"])
}

objections contains sentence if {
	some metric, bounds in input.require
	some key, _ in bounds
	not key in known
	sentence := concat("", [metric, " has ", shown(key), ", which no rule knows: use at_least, at_most, not_below_base or not_significantly_worse_than"])
}

objections contains sentence if {
	some metric, bounds in input.require
	some key in {"at_least", "at_most"}
	bound := bounds[key]
	not is_number(bound)
	sentence := concat("", [key, " of ", metric, " is ", shown(bound), ": give it a finite number"])
}

objections contains sentence if {
	some metric, bounds in input.require
	wanted := bounds.not_below_base
	not is_boolean(wanted)
	sentence := concat("", ["not_below_base of ", metric, " is ", shown(wanted), ": give it true or false"])
}

objections contains sentence if {
	some metric, _ in input.require
	value := metric_of("metrics", metric)
	not is_number(value)
	sentence := concat("", [metric, " is ", shown(value), ", ", target, " requires a finite number"])
}

objections contains sentence if {
	some metric, bounds in input.require
	some key, direction in {"at_least": "at least", "at_most": "at most"}
	value := input.metrics[metric]
	is_number(value)
	is_number(bounds[key])
	not met(metric, key, bounds[key])
	sentence := concat("", [metric, " is ", shown(value), ", ", target, " requires ", direction, " ", shown(bounds[key])])
}

objections contains sentence if {
	some metric, bounds in input.require
	bounds.not_below_base == true
	base := metric_of("base_metrics", metric)
	not is_number(base)
	sentence := concat("", [metric, " of the base is ", shown(base), ", ", target, " requires a finite number"])
}

objections contains sentence if {
	some metric, bounds in input.require
	bounds.not_below_base == true
	value := input.metrics[metric]
	base := input.base_metrics[metric]
	is_number(value)
	is_number(base)
	not met(metric, "not_below_base", true)
	sentence := concat("", [metric, " is ", shown(value), ", ", target, " requires at least the ", shown(base), " of its base"])
}

objections contains sentence if {
	some metric, bounds in input.require
	alias := bounds.not_significantly_worse_than
	alias != false
	not is_string(alias)
	sentence := concat("", ["not_significantly_worse_than of ", metric, " is ", shown(alias), ": give it an alias, such as production"])
}

objections contains sentence if {
	some metric, bounds in input.require
	alias := bounds.not_significantly_worse_than
	is_string(alias)
	compared(metric, "alias") == alias
	compared(metric, "verdict") == "worse"
	numbers := concat("", [
		"difference ", shown(compared(metric, "difference")), " between ", shown(compared(metric, "low")), " and ",
		shown(compared(metric, "high")), ", p ", shown(compared(metric, "p_value")), ", ",
		shown(compared(metric, "examples")), " examples",
	])
	sentence := concat("", [
		metric, " is ", shown(compared(metric, "score")), " against the ", shown(compared(metric, "rival_score")), " of version ",
		shown(compared(metric, "version")), " (", numbers, "), ", target, " requires it not significantly worse than ", alias,
	])
}

objections contains sentence if {
	some metric, bounds in input.require
	alias := bounds.not_significantly_worse_than
	is_string(alias)
	not met(metric, "not_significantly_worse_than", alias)
	not is_worse(metric, alias)
	sentence := concat("", [metric, " was not compared with ", alias, " (", problem(metric), "), ", target, " requires it not significantly worse"])
}

is_worse(metric, alias) if {
	compared(metric, "alias") == alias
	compared(metric, "verdict") == "worse"
}

default problem(_) := "no comparison was made"

problem(metric) := compared(metric, "problem") if {
	is_string(compared(metric, "problem"))
	compared(metric, "problem") != "missing"
}

objections contains sentence if {
	not is_object(within)
	sentence := concat("", ["require_quantized_within is ", shown(within), ": give it types with their distance"])
}

objections contains sentence if {
	is_object(within)
	some type, tolerance in within
	not is_distance(tolerance)
	sentence := concat("", ["require_quantized_within of ", shown(type), " is ", shown(tolerance), ": give it a number from 0 up"])
}

objections contains sentence if {
	is_object(within)
	some type, _ in within
	some metric, _ in input.require
	value := quantized(type, metric)
	not is_number(value)
	sentence := concat("", [metric, " of ", type, " is ", shown(value), ", ", target, " requires a finite number"])
}

objections contains sentence if {
	some type, tolerance in within
	is_distance(tolerance)
	some metric, _ in input.require
	value := quantized(type, metric)
	full := input.metrics[metric]
	is_number(value)
	is_number(full)
	not near(value, full, tolerance)
	sentence := concat("", [metric, " of ", type, " is ", shown(value), ", ", target, " requires it within ", shown(tolerance), " of ", shown(full)])
}
