// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"skep.dev/skep/nodeagent/runtime"
)

// Credential is what a registry wants to see.
type Credential struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Credentials maps a registry's host (and path prefix, if given) to a credential, as in a docker configuration.
type Credentials map[string]Credential

// Puller fetches one image into containerd and unpacks it.
type Puller interface {
	// Pull fetches ref, a complete reference. Its error is shown to the user.
	Pull(ctx context.Context, ref string, credentials Credentials) error
}

// Direct pulls from this process, which needs a way to the registries.
type Direct struct {
	Client *containerd.Client
	// HostsDir holds registry configuration in containerd's certs.d layout; optional.
	HostsDir string
}

// Pull implements Puller.
func (d Direct) Pull(ctx context.Context, ref string, credentials Credentials) error {
	opts := config.HostOptions{
		Credentials:   credentials.lookup,
		DefaultScheme: "https",
	}
	if d.HostsDir != "" {
		opts.HostDir = config.HostDirFromRoot(d.HostsDir)
	}
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: plainLoopback(config.ConfigureHosts(ctx, opts))})
	_, err := d.Client.Pull(ctx, ref, containerd.WithResolver(resolver), containerd.WithPullUnpack, containerd.WithPullSnapshotter(runtime.Snapshotter))
	if err != nil {
		return fmt.Errorf("failed to pull and unpack image %q: %w", ref, err)
	}
	return nil
}

// plainLoopback lets a registry on this machine speak HTTP without TLS, as all container tools do.
func plainLoopback(hosts docker.RegistryHosts) docker.RegistryHosts {
	return func(host string) ([]docker.RegistryHost, error) {
		out, err := hosts(host)
		if err != nil {
			return nil, err
		}
		for i := range out {
			if local, _ := docker.MatchLocalhost(out[i].Host); local && out[i].Scheme == "https" && out[i].Host == host {
				out[i].Scheme = "http"
			}
		}
		return out, nil
	}
}

func (c Credentials) lookup(host string) (string, string, error) {
	aliases := []string{host, "https://" + host, "http://" + host}
	if host == "registry-1.docker.io" {
		aliases = append(aliases, "docker.io", "index.docker.io", "https://index.docker.io/v1/")
	}
	for _, a := range aliases {
		if cred, ok := c[a]; ok {
			return cred.Username, cred.Password, nil
		}
	}
	for key, cred := range c {
		if h, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://"), "/"); h == host {
			return cred.Username, cred.Password, nil
		}
	}
	return "", "", nil
}

type dockerAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"`
}

// ParseDockerConfig reads the data of an image pull secret: key ".dockerconfigjson" or the older ".dockercfg".
func ParseDockerConfig(data map[string][]byte) (Credentials, error) {
	auths := map[string]dockerAuth{}
	if raw, ok := data[".dockerconfigjson"]; ok {
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if err := json.Unmarshal(raw, &file); err != nil {
			return nil, fmt.Errorf("decode .dockerconfigjson: %w", err)
		}
		auths = file.Auths
	} else if raw, ok := data[".dockercfg"]; ok {
		if err := json.Unmarshal(raw, &auths); err != nil {
			return nil, fmt.Errorf("decode .dockercfg: %w", err)
		}
	}
	out := Credentials{}
	for host, a := range auths {
		cred := Credential{Username: a.Username, Password: a.Password}
		if a.Auth != "" && cred.Username == "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return nil, fmt.Errorf("decode credentials of %s: %w", host, err)
			}
			cred.Username, cred.Password, _ = strings.Cut(string(plain), ":")
		}
		out[host] = cred
	}
	return out, nil
}

// pullRequest and pullResponse are one JSON line each on the puller's socket.
type pullRequest struct {
	// Namespace is the containerd namespace of the node that wants the image.
	Namespace   string      `json:"namespace"`
	Ref         string      `json:"ref"`
	Credentials Credentials `json:"credentials,omitempty"`
}

type pullResponse struct {
	Err string `json:"err,omitempty"`
}

// Remote pulls through another process, for nodes that have no way to the registries themselves.
type Remote struct {
	Socket    string
	Namespace string
}

// Pull implements Puller.
func (r Remote) Pull(ctx context.Context, ref string, credentials Credentials) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.Socket)
	if err != nil {
		return fmt.Errorf("ask the image puller: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(pullRequest{Namespace: r.Namespace, Ref: ref, Credentials: credentials}); err != nil {
		return fmt.Errorf("ask the image puller: %w", err)
	}
	var resp pullResponse
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("image puller gave no answer: %w", err)
	}
	if resp.Err != "" {
		return errors.New(resp.Err)
	}
	return nil
}

// ServePuller answers Remote on l until ctx ends. puller pulls into the containerd namespace of its context.
func ServePuller(ctx context.Context, l net.Listener, puller Puller) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go servePull(ctx, conn, puller)
	}
}

func servePull(ctx context.Context, conn net.Conn, puller Puller) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	var req pullRequest
	if err := json.NewDecoder(in).Decode(&req); err != nil {
		return
	}
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(ctx, req.Namespace))
	defer cancel()
	go func() {
		// Whoever asked went away: nobody waits for the image any more.
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	var resp pullResponse
	if err := puller.Pull(ctx, req.Ref, req.Credentials); err != nil {
		resp.Err = err.Error()
	}
	_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_ = json.NewEncoder(conn).Encode(resp)
}

// Import loads images from files: docker archives (docker save) and OCI layouts, as tar, or as a directory. It returns the names.
func Import(ctx context.Context, client *containerd.Client, paths ...string) ([]string, error) {
	var names []string
	for _, p := range paths {
		got, err := importOne(ctx, client, p)
		if err != nil {
			return names, fmt.Errorf("import %s: %w", filepath.Base(p), err)
		}
		names = append(names, got...)
	}
	return names, nil
}

func importOne(ctx context.Context, client *containerd.Client, path string) ([]string, error) {
	r, err := openArchive(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return importStream(ctx, client, r)
}

// isDir says whether an archive is a layout that was not packed.
func isDir(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return info.IsDir(), nil
}
