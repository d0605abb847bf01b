# What the rules of promotion.rego must say: `raymill policy test` asks them.

package raymill.promotion_test

import rego.v1

good := {
	"name": "support-triage",
	"version": 3,
	"to": "production",
	"require": {"heldout_exact_match": {"at_least": 0.9, "not_below_base": true}},
	"metrics": {"heldout_exact_match": 0.97},
	"base_metrics": {"heldout_exact_match": 0.05},
	"quantized_metrics": {},
	"evaluated": true,
	"signed": true,
	"frozen": true,
	"dataset_digest": "0f0f",
}

test_a_version_that_meets_its_bounds_is_allowed := {"input": good, "allow": true, "refused": []}

test_a_score_below_its_bound_is_refused := {
	"input": object.union(good, {"metrics": {"heldout_exact_match": 0.42}}),
	"allow": false,
	"refused": ["heldout_exact_match is 0.42, production requires at least 0.9"],
}

test_a_version_without_a_signature_is_refused := {
	"input": object.union(good, {"signed": false}),
	"allow": false,
	"refused": ["signed is false, production requires true"],
}

test_what_was_not_measured_is_refused := {
	"input": object.union(good, {"metrics": {"heldout_exact_match": null}}),
	"allow": false,
}

test_nothing_is_refused := {"input": {}, "allow": false}
