// SPDX-License-Identifier: Apache-2.0

// Package images brings images into the containerd of a local cluster, from files and from registries.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"skep.dev/skep/cmd/skep/internal/local"
	"skep.dev/skep/cmd/skep/internal/preflight"
	"skep.dev/skep/nodeagent/image"
)

// Load loads archives to every node of the named local cluster.
func Load(ctx context.Context, w io.Writer, name string, files []string) error {
	c := local.Cluster{Name: name}
	nodes, err := c.Nodes()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := check(f); err != nil {
			return err
		}
	}
	if err := preflight.Socket(c.ContainerdSocket(), "containerd", 0)(); err != nil {
		return fmt.Errorf("the containerd of cluster %s does not answer: run \"skep up --name %s\" to start it again", name, name)
	}
	client, err := connect(c.ContainerdSocket())
	if err != nil {
		return err
	}
	defer client.Close()
	for _, n := range nodes {
		names, err := image.Import(namespaces.WithNamespace(ctx, n.Netns()), client, files...)
		if err != nil {
			return fmt.Errorf("load to node %s: %w", n.Name(), err)
		}
		if len(names) == 0 {
			return fmt.Errorf("load to node %s: no image has a name that a pod could use: give it one, for example with \"docker tag\"", n.Name())
		}
		for _, image := range names {
			fmt.Fprintf(w, "%s: %s\n", n.Name(), image)
		}
	}
	return nil
}

// Pull answers the agents' wishes for images until the context ends.
func Pull(ctx context.Context, containerdSocket, listen string) error {
	client, err := connect(containerdSocket)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := os.MkdirAll(filepath.Dir(listen), 0o755); err != nil {
		return err
	}
	if err := os.Remove(listen); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace old puller socket: %w", err)
	}
	l, err := net.Listen("unix", listen)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.Chmod(listen, 0o600); err != nil {
		return err
	}
	return image.ServePuller(ctx, l, image.Direct{Client: client})
}

// connect prepares a client; containerd itself may still be starting.
func connect(socket string) (*containerd.Client, error) {
	client, err := containerd.New(socket)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", socket, err)
	}
	return client, nil
}
