// SPDX-License-Identifier: Apache-2.0

// Command image makes a container image of one static program, without a Dockerfile, a daemon or a registry, and
// writes it as a docker archive for "skep image load". The same program always gives the same image.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// nonRoot is the numeric user that the program runs as.
const nonRoot = "65532:65532"

func main() {
	os.Exit(run())
}

func run() int {
	pkg := flag.String("package", "./examples/hello/server", "Go package of the program")
	ref := flag.String("ref", "skep.dev/hello:1", "name of the image")
	out := flag.String("o", "bin/hello.tar", "file to write")
	flag.Parse()
	if err := build(*pkg, *ref, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		return 1
	}
	return 0
}

func build(pkg, ref, out string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	program, err := compile(pkg)
	if err != nil {
		return err
	}
	image, err := assemble(program)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, image)
}

func compile(pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return os.ReadFile(binary)
}

func assemble(program []byte) (v1.Image, error) {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	header := &tar.Header{Name: "server", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg}
	if err := archive.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := archive.Write(program); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, content)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Entrypoint: []string{"/server"}, User: nonRoot, ExposedPorts: map[string]struct{}{"8080/tcp": {}}}
	return mutate.ConfigFile(image, file)
}
