// SPDX-License-Identifier: Apache-2.0

// Package arch checks what the compiler does not: who may import whom, and that every file says under which licence
// and every package what it is.
package arch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "skep.dev/skep"

// goPackage is the part of `go list -json` that the rules look at.
type goPackage struct {
	ImportPath   string
	Name         string
	Dir          string
	Doc          string
	GoFiles      []string
	Imports      []string
	Deps         []string
	TestImports  []string
	XTestImports []string
}

// rule forbids imports: no package below from may reach a package below any of never. Direct restricts the rule to
// what the package itself imports; otherwise the whole dependency tree counts.
type rule struct {
	from   string
	never  []string
	except []string
	direct bool
	reason string
}

var rules = []rule{
	{from: "controlplane", never: []string{"skep/nodeagent", "skep/datapath", "skep/cmd"}, reason: "the Kubernetes API is the only contract with nodes"},
	{from: "nodeagent", never: []string{"skep/controlplane", "skep/cmd"}, reason: "the Kubernetes API is the only contract with the control plane"},
	{from: "nodeagent", never: []string{"skep/datapath/"}, except: []string{"skep/datapath/netdev", "skep/datapath/fake"}, reason: "the agent asks for intent; cmd/skep hands the kernel in"},
	{from: "datapath", never: []string{"skep/nodeagent", "skep/controlplane", "skep/cmd", "k8s.io/"}, reason: "the datapath knows neither Kubernetes nor its users"},
	{from: "datapath/compile", never: []string{"github.com/cilium/ebpf", "github.com/vishvananda/netlink"}, reason: "compiling is pure"},
	{from: "datapath/compile", never: []string{"os", "net"}, except: []string{"net/netip"}, direct: true, reason: "compiling is pure"},
	{from: "nodeagent/podsync", never: []string{"k8s.io/client-go", "github.com/containerd", "github.com/cilium/ebpf"}, reason: "the pod state machine is pure"},
	{from: "nodeagent/podsync", never: []string{"os", "net"}, except: []string{"net/netip"}, direct: true, reason: "the pod state machine is pure"},
	{from: "nodeagent/policymodel", never: []string{"skep/nodeagent/intent", "skep/datapath/compile", "skep/enforcement", "k8s.io/client-go"}, reason: "the model must not share code with what it checks"},
	{from: "controlplane/ipam", never: []string{"k8s.io/client-go", "os"}, direct: true, reason: "allocators are plain data structures"},
	{from: "enforcement", never: []string{"skep/"}, reason: "server and agents share words, not code"},
	{from: "", never: []string{"k8s.io/kubernetes"}, reason: "it is not a library"},
}

func TestImports(t *testing.T) {
	packages := list(t)
	for _, p := range packages {
		for _, r := range rules {
			for _, bad := range violations(p, r) {
				t.Errorf("%s imports %s: %s", p.ImportPath, bad, r.reason)
			}
		}
	}
}

// TestRuleFires proves that a rule can fail: a package that breaks one is reported.
func TestRuleFires(t *testing.T) {
	p := goPackage{ImportPath: module + "/datapath/compile", Imports: []string{"os"}, Deps: []string{"os", "k8s.io/api/core/v1"}}
	var found int
	for _, r := range rules {
		found += len(violations(p, r))
	}
	if found != 2 {
		t.Fatalf("found %d violations in a package that breaks two rules", found)
	}
}

func violations(p goPackage, r rule) []string {
	relative := strings.TrimPrefix(p.ImportPath, module+"/")
	if r.from != "" && relative != r.from && !strings.HasPrefix(relative, r.from+"/") {
		return nil
	}
	imports := p.Deps
	if r.direct {
		imports = p.Imports
	}
	var bad []string
	for _, path := range imports {
		if forbidden(path, r) {
			bad = append(bad, path)
		}
	}
	return bad
}

func forbidden(path string, r rule) bool {
	for _, allowed := range r.except {
		if within(path, allowed) {
			return false
		}
	}
	for _, never := range r.never {
		if within(path, never) {
			return true
		}
	}
	return false
}

// within reports whether path is prefix or lies below it. A prefix "skep/x" stands for this module's x; one that ends in
// a slash means only what lies below.
func within(path, prefix string) bool {
	if rest, ours := strings.CutPrefix(prefix, "skep/"); ours {
		prefix = module + "/" + rest
	}
	if strings.HasSuffix(prefix, "/") {
		return strings.HasPrefix(path, prefix)
	}
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func TestPackageComments(t *testing.T) {
	for _, p := range list(t) {
		if p.Name != "main" && len(p.GoFiles) > 0 && !strings.HasPrefix(p.Doc, "Package "+p.Name) {
			t.Errorf("%s: the package comment does not start with %q", p.ImportPath, "Package "+p.Name)
		}
	}
}

func TestForbiddenPackageNames(t *testing.T) {
	for _, p := range list(t) {
		switch p.Name {
		case "util", "utils", "common", "helper", "helpers", "base", "misc", "types":
			t.Errorf("%s: name the package after what it holds", p.ImportPath)
		}
	}
}

func TestLicenceHeaders(t *testing.T) {
	for _, file := range tracked(t) {
		want := "SPDX-License-Identifier: Apache-2.0"
		switch {
		case strings.HasPrefix(file, "bpf/include/"):
			continue
		case strings.HasPrefix(file, "bpf/"):
			want = "SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)"
		}
		switch filepath.Ext(file) {
		case ".go", ".c", ".h":
		default:
			continue
		}
		if head := firstLines(t, file, 5); !strings.Contains(head, want) && !strings.Contains(head, "Code generated") &&
			!strings.Contains(head, strings.NewReplacer("(", "", ")", "").Replace(want)) {
			t.Errorf("%s: no %q near its top", file, want)
		}
	}
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Name,Dir,Doc,GoFiles,Imports,Deps,TestImports,XTestImports", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 10 {
		t.Fatalf("only %d packages found", len(packages))
	}
	return packages
}

// tracked lists the source files of the tree relative to its root.
func tracked(t *testing.T) []string {
	t.Helper()
	var files []string
	top := root(t)
	err := filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && (name == ".git" || name == "bin" || name == ".cache") {
			return filepath.SkipDir
		}
		if entry.Type().IsRegular() {
			relative, err := filepath.Rel(top, path)
			if err != nil {
				return err
			}
			files = append(files, relative)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func firstLines(t *testing.T, file string, n int) string {
	t.Helper()
	f, err := os.Open(filepath.Join(root(t), file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	for scanner := bufio.NewScanner(f); scanner.Scan() && len(lines) < n; {
		lines = append(lines, scanner.Text())
	}
	return strings.Join(lines, "\n")
}

func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(fmt.Errorf("go env GOMOD: %w", err))
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}
