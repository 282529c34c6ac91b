// SPDX-License-Identifier: Apache-2.0

// Package probeimage builds the container image of the probe program that the end-to-end tests and benchmarks run in pods:
// one static Go binary and nothing else, so no registry and no Dockerfile is needed.
package probeimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Ref is the name under which pods ask for the image.
const Ref = "skep.dev/probe:1"

// Build compiles the probe and returns it as an image whose entry point it is.
func Build(dir string) (v1.Image, error) {
	binary := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "skep.dev/skep/tests/cluster/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	archive, err := layer(file{path: "probe", content: content})
	if err != nil {
		return nil, err
	}
	return single(archive, v1.Config{Entrypoint: []string{"/probe"}, Cmd: []string{"serve"}, Env: []string{"PATH=/"}})
}

// Archive writes the image, named ref, as a docker archive, which `skep image load` takes, and returns the file's path.
func Archive(image v1.Image, ref, dir string) (string, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(ref)+".tar")
	return path, tarball.WriteToFile(path, tag, image)
}

// BusyboxRef is the name of the image that Busybox makes.
const BusyboxRef = "skep.dev/busybox:1"

// applets are the commands that the tests' pods call by name.
var applets = []string{"sh", "cat", "echo", "env", "grep", "head", "hostname", "ls", "nc", "ping", "sleep", "test", "true", "false", "wget", "id"}

// Busybox makes an image of the machine's static busybox (Debian: busybox-static).
func Busybox() (v1.Image, error) {
	content, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w: install busybox-static", err)
	}
	files := []file{{path: "bin/busybox", content: content}, {path: "tmp/.keep"}, {path: "etc/passwd", content: []byte("root:x:0:0::/:/bin/sh\n")}}
	for _, applet := range applets {
		files = append(files, file{path: "bin/" + applet, link: "/bin/busybox"})
	}
	archive, err := layer(files...)
	if err != nil {
		return nil, err
	}
	return single(archive, v1.Config{Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/bin"}})
}

// single makes an image of one layer for this machine's platform.
func single(layer v1.Layer, config v1.Config) (v1.Image, error) {
	base, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: config})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(base, layer)
}

// file is one entry of a layer: content, or a symbolic link.
type file struct {
	path    string
	content []byte
	link    string
}

func layer(files ...file) (v1.Layer, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for _, f := range files {
		header := &tar.Header{Name: f.path, Mode: 0o755, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if f.link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.link
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	})
}
