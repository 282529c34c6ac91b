// SPDX-License-Identifier: Apache-2.0

// Package image makes images present on the node: pull, import, look up.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"

	"skep.dev/skep/nodeagent/runtime"
)

// ErrNotPresent says that the image is not on the node.
var ErrNotPresent = errors.New("image is not present")

// Image is one image, unpacked and ready to start containers from.
type Image struct {
	// Name is the full reference, with the registry's host.
	Name string
	// ID is what a pod's status reports: the reference by digest.
	ID      string
	Digest  string
	ChainID string
	Config  imagespec.ImageConfig
	// Size is that of the compressed content, in bytes.
	Size int64
}

// Normalize completes a reference as registries' clients do: "busybox" is docker.io/library/busybox:latest.
func Normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", ref, err)
	}
	return named.String(), nil
}

// Store looks images up. It remembers the configuration of the images in use, so that starting a pod costs one call to containerd.
type Store struct {
	client *containerd.Client

	mu    sync.Mutex // guards known
	known map[string]*entry
	group singleflight.Group
}

type entry struct {
	image         Image
	passwd, group []byte
	users         bool
}

// NewStore returns a store on client.
func NewStore(client *containerd.Client) *Store {
	return &Store{client: client, known: map[string]*entry{}}
}

// Get returns an image that is present and unpacked. It unpacks one that is only present.
func (s *Store) Get(ctx context.Context, ref string) (Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return Image{}, err
	}
	record, err := s.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return Image{}, fmt.Errorf("%s: %w", name, ErrNotPresent)
	}
	if err != nil {
		return Image{}, fmt.Errorf("look up image %s: %w", name, err)
	}
	digest := record.Target.Digest.String()
	s.mu.Lock()
	e := s.known[name]
	s.mu.Unlock()
	if e != nil && e.image.Digest == digest {
		return e.image, nil
	}
	v, err, _ := s.group.Do(name+"@"+digest, func() (any, error) { return s.load(context.WithoutCancel(ctx), record) })
	if err != nil {
		return Image{}, err
	}
	return v.(Image), nil
}

func (s *Store) load(ctx context.Context, record images.Image) (Image, error) {
	img := containerd.NewImageWithPlatform(s.client, record, platforms.Default())
	unpacked, err := img.IsUnpacked(ctx, runtime.Snapshotter)
	if err == nil && !unpacked {
		err = img.Unpack(ctx, runtime.Snapshotter)
	}
	if err != nil {
		return Image{}, fmt.Errorf("unpack image %s: %w", record.Name, err)
	}
	diffIDs, err := img.RootFS(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", record.Name, err)
	}
	desc, err := img.Config(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", record.Name, err)
	}
	raw, err := content.ReadBlob(ctx, s.client.ContentStore(), desc)
	if err != nil {
		return Image{}, fmt.Errorf("read configuration of image %s: %w", record.Name, err)
	}
	var config imagespec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return Image{}, fmt.Errorf("decode configuration of image %s: %w", record.Name, err)
	}
	size, err := img.Size(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("measure image %s: %w", record.Name, err)
	}
	out := Image{
		Name: record.Name, ID: idOf(record), Digest: record.Target.Digest.String(),
		ChainID: identity.ChainID(diffIDs).String(), Config: config.Config, Size: size,
	}
	s.mu.Lock()
	s.known[record.Name] = &entry{image: out}
	s.mu.Unlock()
	return out, nil
}

// idOf is the image's name by digest; one that never came from a registry is named by its digest alone.
func idOf(record images.Image) string {
	named, err := reference.ParseDockerRef(record.Name)
	if err != nil {
		return record.Target.Digest.String()
	}
	return reference.TrimNamed(named).Name() + "@" + record.Target.Digest.String()
}

// Accounts returns /etc/passwd and /etc/group of the image; absent files are empty.
func (s *Store) Accounts(ctx context.Context, img Image) (passwd, group []byte, err error) {
	s.mu.Lock()
	e := s.known[img.Name]
	if e != nil && e.users && e.image.Digest == img.Digest {
		defer s.mu.Unlock()
		return e.passwd, e.group, nil
	}
	s.mu.Unlock()
	// Containers that start together share one reading, and so its snapshot; the end of one's context must not fail the others.
	read, err, _ := s.group.Do("accounts of "+img.ChainID, func() (any, error) {
		passwd, group, err := s.readAccounts(context.WithoutCancel(ctx), img)
		return [2][]byte{passwd, group}, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read users of image %s: %w", img.Name, err)
	}
	files := read.([2][]byte)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.known[img.Name]; e != nil && e.image.Digest == img.Digest {
		e.passwd, e.group, e.users = files[0], files[1], true
	}
	return files[0], files[1], nil
}

func (s *Store) readAccounts(ctx context.Context, img Image) (passwd, group []byte, err error) {
	snapshots := s.client.SnapshotService(runtime.Snapshotter)
	key := "skep-accounts-" + path.Base(img.ChainID)
	mounts, err := snapshots.View(ctx, key, img.ChainID)
	if errdefs.IsAlreadyExists(err) {
		mounts, err = snapshots.Mounts(ctx, key)
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if rerr := snapshots.Remove(context.WithoutCancel(ctx), key); rerr != nil && !errdefs.IsNotFound(rerr) {
			err = errors.Join(err, rerr)
		}
	}()
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		if passwd, err = readInRoot(root, "etc/passwd"); err != nil {
			return err
		}
		group, err = readInRoot(root, "etc/group")
		return err
	})
	return passwd, group, err
}

const maxAccounts = 1 << 20

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxAccounts+1))
	if err == nil && len(data) > maxAccounts {
		return nil, errors.New("file is larger than 1 MiB")
	}
	return data, err
}

// List returns the names and sizes of all images, largest first, as a node's status reports them.
func (s *Store) List(ctx context.Context) ([]images.Image, error) {
	list, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return list, nil
}
