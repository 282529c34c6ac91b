// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"testing"

	"skep.dev/skep/enforcement"
)

func TestEnforcementAnnotation(t *testing.T) {
	with := func(value string) map[string]string {
		return map[string]string{enforcement.Annotation: value, "other": "x"}
	}
	const refused = `metadata.annotations[skep.dev/enforcement]: Unsupported value: "Audit": supported values: "audit", "enforce"`
	for _, c := range []struct {
		name     string
		now, old map[string]string
		want     string
	}{
		{"absent", nil, nil, ""},
		{"audit", with("audit"), nil, ""},
		{"enforce", with("enforce"), nil, ""},
		{"another spelling", with("Audit"), nil, refused},
		{"an empty one is not the same as none", with(""), nil, `metadata.annotations[skep.dev/enforcement]: Unsupported value: "": supported values: "audit", "enforce"`},
		{"a good value is replaced by a bad one", with("Audit"), with("audit"), refused},
		{"a bad one is added", with("Audit"), map[string]string{"other": "x"}, refused},
		{"a bad one stays", with("Audit"), with("Audit"), ""},
		{"a bad one is replaced by another", with("Audit"), with("off"), refused},
		{"a bad one is repaired", with("audit"), with("Audit"), ""},
		{"a bad one is removed", nil, with("Audit"), ""},
	} {
		got := ""
		if err := checkEnforcement(c.now, c.old).ToAggregate(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
