// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// decisions are the files that decide: they get a snapshot and return a plan.
var decisions = []string{
	"../*/plan.go",
	"../claim/claim.go",
	"../deployment/bounds.go", "../deployment/resize.go", "../deployment/revision.go", "../deployment/status.go",
	"../gc/graph.go",
	"../nodeipam/book.go",
	"../podstate/*.go",
	"../replicaset/pod.go", "../replicaset/rank.go",
	"../../scheduler/place/*.go", "../../scheduler/queue/*.go",
}

// TestDecisionsAreTakenWithoutAClient keeps effects at the edge.
func TestDecisionsAreTakenWithoutAClient(t *testing.T) {
	checked := 0
	for _, pattern := range decisions {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no such file (%v)", pattern, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			checked++
			for _, path := range imports(t, file) {
				if strings.HasPrefix(path, "k8s.io/client-go") || slices.Contains([]string{"os", "net", "net/http", "log/slog"}, path) {
					t.Errorf("%s imports %s", file, path)
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d files checked", checked)
	}
}

func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, spec := range f.Imports {
		out = append(out, strings.Trim(spec.Path.Value, `"`))
	}
	return out
}
