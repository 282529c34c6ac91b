// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"net"
	"path/filepath"
	"testing"

	"context"
	"errors"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"io"
	"log"
	"net/http/httptest"
	"strings"

	"skep.dev/skep/nodeagent/image"
	"skep.dev/skep/nodeagent/runtime/runtimetest"
)

func TestImages(t *testing.T) {
	c := runtimetest.Start(t)
	ctx := runtimetest.Context(t)
	store := image.NewStore(c.Client)

	t.Run("the built-in image starts nothing but is complete", func(t *testing.T) {
		for range 2 {
			if err := image.EnsureBase(ctx, c.Client); err != nil {
				t.Fatal(err)
			}
		}
		img, err := store.Get(ctx, image.BaseImage)
		if err != nil {
			t.Fatal(err)
		}
		passwd, _, err := store.Accounts(ctx, img)
		if err != nil || !strings.HasPrefix(string(passwd), "root:x:0:0:") {
			t.Errorf("passwd %q, %v", passwd, err)
		}
	})
	t.Run("an OCI layout directory is imported under its reference", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "layout")
		path, err := layout.Write(dir, empty.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := path.AppendImage(runtimetest.BusyboxImage(t), layout.WithAnnotations(map[string]string{"io.containerd.image.name": "docker.io/library/laid:1"})); err != nil {
			t.Fatal(err)
		}
		names, err := image.Import(ctx, c.Client, dir)
		if err != nil || len(names) != 1 || names[0] != "docker.io/library/laid:1" {
			t.Fatalf("%v, %v", names, err)
		}
		img, err := store.Get(ctx, "laid:1")
		if err != nil || img.ChainID == "" || img.Size == 0 {
			t.Fatalf("%+v, %v", img, err)
		}
	})
	t.Run("absence has a name", func(t *testing.T) {
		if _, err := store.Get(ctx, "nobody/knows:1"); !errors.Is(err, image.ErrNotPresent) {
			t.Fatal(err)
		}
	})
	t.Run("another process pulls into the node's namespace", func(t *testing.T) {
		srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
		defer srv.Close()
		ref := strings.TrimPrefix(srv.URL, "http://") + "/x/y:1"
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(tag, runtimetest.BusyboxImage(t)); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", filepath.Join(c.Root, "puller.sock"))
		if err != nil {
			t.Fatal(err)
		}
		serve, stop := context.WithCancel(ctx)
		done := make(chan error)
		go func() { done <- image.ServePuller(serve, l, image.Direct{Client: c.Client}) }()
		puller := image.Remote{Socket: l.Addr().String(), Namespace: "elsewhere"}
		if err := puller.Pull(ctx, ref, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Get(namespaces.WithNamespace(ctx, "elsewhere"), ref); err != nil {
			t.Error(err)
		}
		if err := puller.Pull(ctx, ref+"absent", nil); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("absent image: %v", err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestDockerConfig(t *testing.T) {
	got, err := image.ParseDockerConfig(map[string][]byte{".dockerconfigjson": []byte(`{"auths":{"a.example":{"auth":"dTpw"},"b.example":{"username":"x","password":"y"}}}`)})
	if err != nil || got["a.example"] != (image.Credential{Username: "u", Password: "p"}) || got["b.example"].Password != "y" {
		t.Errorf("%v %v", got, err)
	}
	if _, err := image.ParseDockerConfig(map[string][]byte{".dockerconfigjson": []byte(`{`)}); err == nil {
		t.Error("broken JSON accepted")
	}
}

func TestResolveUser(t *testing.T) {
	passwd, group := []byte("root:x:0:0::/root:\nalice:x:1000:1001::/home/alice:\n"), []byte("staff:x:50:alice\n")
	for spec, want := range map[string]image.Account{
		"":        {Home: "/root"},
		"alice":   {UID: 1000, GID: 1001, Groups: []uint32{50}, Home: "/home/alice"},
		"7":       {UID: 7, Home: "/"},
		"7:staff": {UID: 7, GID: 50, Home: "/"},
	} {
		got, err := image.ResolveUser(spec, passwd, group)
		if err != nil || got.UID != want.UID || got.GID != want.GID || got.Home != want.Home || len(got.Groups) != len(want.Groups) {
			t.Errorf("%q: %+v, %v", spec, got, err)
		}
	}
	if _, err := image.ResolveUser("bob", passwd, group); err == nil {
		t.Error("bob is nobody")
	}
}
