// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGeneratedBPFIsFresh compiles bpf/ again in a copy and compares: what is checked in is what the sources say.
func TestGeneratedBPFIsFresh(t *testing.T) {
	for _, tool := range []string{"clang-19", "llvm-strip-19"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: make deps-gen", tool)
		}
	}
	const objects = "datapath/bpfobj"
	top, copied := root(t), t.TempDir()
	for _, part := range []string{"bpf", objects} {
		if err := os.CopyFS(filepath.Join(copied, part), os.DirFS(filepath.Join(top, part))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(top, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	generate := exec.Command("go", "generate", "./"+objects)
	generate.Dir = copied
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(copied, objects, "*_bpfel.*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing was generated: %v", err)
	}
	for _, file := range files {
		fresh, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := os.ReadFile(filepath.Join(top, objects, filepath.Base(file)))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(fresh, stored) {
			t.Errorf("%s/%s is stale: make generate", objects, filepath.Base(file))
		}
	}
}
