// SPDX-License-Identifier: Apache-2.0

// Package cluster proves skep from outside: one local cluster of two nodes, started by the binary that users get, driven
// with kubectl and client-go, observed by real sockets in pods.
package cluster

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skep.dev/skep/tests/probeimage"
)

const nodes = 2

// name is the cluster's own, so that a cluster that the user has is left alone. Another one lets two runs share a machine.
var name = cmp.Or(os.Getenv("SKEP_E2E_NAME"), "skep-e2e")

var (
	keep   = flag.Bool("keep", false, "leave the cluster running after the tests")
	client kubernetes.Interface
	config *rest.Config
	// skep is the binary under test, kubeconfig the one that it wrote, and home a private home directory.
	skep, kubeconfig, home string
	// probe is the image that most pods run.
	probe v1.Image
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if os.Getuid() != 0 {
		fmt.Println("SKIP: the end-to-end tests need root: they make network namespaces and start containers")
		return 0
	}
	if err := start(); err != nil {
		fmt.Println("start the cluster:", err)
		_ = command("down", "--name", name).Run()
		return 1
	}
	code := m.Run()
	if *keep {
		return code
	}
	if err := stop(); err != nil {
		fmt.Println("stop the cluster:", err)
		return 1
	}
	return code
}

func start() error {
	var err error
	if skep, err = filepath.Abs("../../bin/skep"); err != nil {
		return err
	}
	if _, err := os.Stat(skep); err != nil {
		return fmt.Errorf("%w: run `make build` first", err)
	}
	if home, err = os.MkdirTemp("", "skep-e2e-"); err != nil {
		return err
	}
	kubeconfig = filepath.Join(home, "config")
	began := time.Now()
	up := command("up", "--name", name, "--nodes", fmt.Sprint(nodes))
	up.Stdout, up.Stderr = os.Stdout, os.Stderr
	if err := up.Run(); err != nil {
		return fmt.Errorf("skep up: %w", err)
	}
	fmt.Printf("skep up --nodes %d took %v\n", nodes, time.Since(began).Round(10*time.Millisecond))
	if probe, err = probeimage.Build(home); err != nil {
		return err
	}
	if err := load(probe, probeimage.Ref); err != nil {
		return err
	}
	return connect()
}

// load puts an image into every node, as a user does.
func load(image v1.Image, ref string) error {
	archive, err := probeimage.Archive(image, ref, home)
	if err != nil {
		return err
	}
	if out, err := command("image", "load", "--name", name, archive).CombinedOutput(); err != nil {
		return fmt.Errorf("skep image load: %w\n%s", err, out)
	}
	return nil
}

func connect() error {
	var err error
	if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return err
	}
	config.QPS, config.Burst = 1000, 1000
	client, err = kubernetes.NewForConfig(config)
	return err
}

// stop kills every process of the cluster first, so that what is checked is the hard case: down after a crash.
func stop() error {
	defer os.RemoveAll(home)
	before := takeFootprint()
	for _, pid := range clusterProcesses() {
		if process, err := os.FindProcess(pid); err == nil {
			_ = process.Kill()
		}
	}
	if out, err := command("down", "--name", name).CombinedOutput(); err != nil {
		return fmt.Errorf("skep down: %w\n%s", err, out)
	}
	if left := leftovers(before); len(left) > 0 {
		return fmt.Errorf("skep down left behind:\n%s", strings.Join(left, "\n"))
	}
	if out, err := command("down", "--name", name).CombinedOutput(); err != nil {
		return fmt.Errorf("a second skep down: %w\n%s", err, out)
	}
	return nil
}

// command prepares a call of the binary with a private home and kubeconfig.
func command(args ...string) *exec.Cmd {
	return withEnvironment(exec.Command(skep, args...))
}

// noProxy is a proxy that refuses everybody: an image pull, the one thing of a cluster that would leave the machine, ends there.
// What is on loopback is reached without it.
const noProxy = "http://127.0.0.1:1"

func withEnvironment(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(os.Environ(), "HOME="+home, "KUBECONFIG="+kubeconfig,
		"HTTP_PROXY="+noProxy, "HTTPS_PROXY="+noProxy, "http_proxy="+noProxy, "https_proxy="+noProxy, "NO_PROXY=", "no_proxy=")
	return cmd
}

// kubectl runs a kubectl verb of the binary under test and returns what it printed; the test fails if it fails.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKubectl(t, args...)
	if err != nil {
		t.Fatalf("skep %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryKubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := withEnvironment(exec.CommandContext(ctx, skep, args...)).CombinedOutput()
	return string(out), err
}
