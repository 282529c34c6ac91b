// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skep.dev/skep/tests/probeimage"
)

// apiPort is where the host reaches the measured cluster.
const apiPort = 16443

// cluster is the local cluster under measurement.
type cluster struct {
	options
	home   string
	client kubernetes.Interface
}

func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.skep, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.home, "KUBECONFIG="+c.kubeconfig())
	return cmd
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.home, "config") }

func (c *cluster) down() {
	if out, err := c.command(context.Background(), "down", "--name", c.name).CombinedOutput(); err != nil {
		fmt.Printf("skep down: %v\n%s", err, out)
	}
}

// benchStart measures from the exec of `skep up` to an API that answers and to the first pod that runs.
func (c *cluster) benchStart(ctx context.Context) error {
	up := c.command(ctx, "up", "--name", c.name, "--nodes", "2", "--api-port", strconv.Itoa(apiPort))
	var output strings.Builder
	up.Stdout, up.Stderr = &output, &output
	began := time.Now()
	if err := up.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- up.Wait() }()
	ready, err := c.waitAPI(ctx)
	if err != nil {
		return errors.Join(err, <-exited, errors.New(output.String()))
	}
	server, err := c.process("server")
	if err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	pod, err := c.firstRunning(ctx)
	if err != nil {
		return errors.Join(err, errors.New(output.String()))
	}
	if err := <-exited; err != nil {
		return fmt.Errorf("skep up: %w\n%s", err, output.String())
	}
	execed, err := startTime(server)
	if err != nil {
		return err
	}
	row("exec of skep server -> API ready", "%v (bar 2 s)", ready.Sub(execed).Round(10*time.Millisecond))
	row("exec of skep up -> API ready", "%v", ready.Sub(began).Round(10*time.Millisecond))
	row("exec of skep up -> first pod running", "%v (bar 5 s)", pod.Sub(began).Round(10*time.Millisecond))
	row("exec of skep up -> nodes and DNS ready", "%v", time.Since(began).Round(10*time.Millisecond))
	return nil
}

func (c *cluster) waitAPI(ctx context.Context) (time.Time, error) {
	// Readiness is public and carries no secret, and the CA is not known before the server made it.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: time.Second}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/readyz", apiPort))
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return time.Now(), nil
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("the API is not ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (c *cluster) connect(ctx context.Context) error {
	path := filepath.Join("/var/lib/skep", c.name, "kubeconfig")
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 1000, 1000
	c.client, err = kubernetes.NewForConfig(config)
	return err
}

// firstRunning waits for any pod of the cluster to run; the first is the DNS server of a node.
func (c *cluster) firstRunning(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err == nil {
			for _, pod := range pods.Items {
				if pod.Status.Phase == corev1.PodRunning {
					return time.Now(), nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("no pod runs: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// loadProbe puts the probe's image on every node.
func (c *cluster) loadProbe(ctx context.Context) error {
	image, err := probeimage.Build(c.home)
	if err != nil {
		return err
	}
	archive, err := probeimage.Archive(image, probeimage.Ref, c.home)
	if err != nil {
		return err
	}
	if out, err := c.command(ctx, "image", "load", "--name", c.name, archive).CombinedOutput(); err != nil {
		return fmt.Errorf("image load: %w\n%s", err, out)
	}
	return nil
}
