// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	goruntime "runtime"

	"skep.dev/skep/nodeagent/runtime"
)

// BaseImage is built in: an empty root with the account files and /tmp, for static programs that the pod brings as a volume.
const BaseImage = "skep.dev/base:1"

func openArchive(path string) (io.ReadCloser, error) {
	dir, err := isDir(path)
	if err != nil {
		return nil, err
	}
	if !dir {
		return os.Open(path)
	}
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		err := w.AddFS(os.DirFS(path))
		pw.CloseWithError(errors.Join(err, w.Close()))
	}()
	return pr, nil
}

func importStream(ctx context.Context, client *containerd.Client, r io.Reader) ([]string, error) {
	imgs, err := client.Import(ctx, r, containerd.WithAllPlatforms(false), containerd.WithSkipMissing())
	if err != nil {
		return nil, err
	}
	if len(imgs) == 0 {
		return nil, errors.New("the archive names no image (neither manifest.json nor index.json with a reference)")
	}
	var names []string
	for _, record := range imgs {
		// An OCI layout may name an image by a bare tag or digest only; those are content, not something a pod can refer to.
		if strings.HasPrefix(record.Name, "import-") {
			continue
		}
		img := containerd.NewImage(client, record)
		if err := img.Unpack(ctx, runtime.Snapshotter); err != nil {
			return names, fmt.Errorf("unpack %s: %w", record.Name, err)
		}
		names = append(names, record.Name)
	}
	return names, nil
}

// EnsureBase imports BaseImage if it is not there.
func EnsureBase(ctx context.Context, client *containerd.Client) error {
	if _, err := client.ImageService().Get(ctx, BaseImage); err == nil {
		return nil
	}
	img, err := baseImage()
	if err != nil {
		return fmt.Errorf("build %s: %w", BaseImage, err)
	}
	tag, err := name.NewTag(BaseImage)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := tarball.Write(tag, img, &buf); err != nil {
		return fmt.Errorf("build %s: %w", BaseImage, err)
	}
	if _, err := importStream(ctx, client, &buf); err != nil {
		return fmt.Errorf("import %s: %w", BaseImage, err)
	}
	return nil
}

func baseImage() (ggcr.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(baseLayer())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	cfg.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return mutate.ConfigFile(img, cfg)
}

func baseLayer() []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	dirs := []struct {
		name string
		mode int64
	}{{"etc/", 0o755}, {"tmp/", 0o1777}, {"dev/", 0o755}, {"proc/", 0o755}, {"sys/", 0o755}}
	for _, d := range dirs {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d.name, Mode: d.mode, Format: tar.FormatPAX})
	}
	files := []struct{ name, text string }{
		{"etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"},
		{"etc/group", "root:x:0:\nnobody:x:65534:\n"},
	}
	for _, f := range files {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.text)), Format: tar.FormatPAX})
		_, _ = w.Write([]byte(f.text))
	}
	// Writes to a bytes.Buffer do not fail.
	_ = w.Close()
	return buf.Bytes()
}
