// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skep.dev/skep/controlplane"
)

func TestObjectsAndAddressesSurviveAKill(t *testing.T) {
	dir := t.TempDir()
	s, err := start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.kill() }()
	before, err := s.client.CoreV1().Services("default").Create(t.Context(), nodePort("kept", 0), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ca := s.config.CAData
	s.kill()
	if s, err = start(dir); err != nil {
		t.Fatal(err)
	}
	after, err := s.client.CoreV1().Services("default").Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil || after.Spec.ClusterIP != before.Spec.ClusterIP || after.UID != before.UID {
		t.Fatalf("got %+v, %v", after, err)
	}
	if string(s.config.CAData) != string(ca) {
		t.Error("the restart made another CA")
	}
	again := nodePort("again", 0)
	again.Spec.ClusterIP = before.Spec.ClusterIP
	if _, err := s.client.CoreV1().Services("default").Create(t.Context(), again, metav1.CreateOptions{}); err == nil {
		t.Error("an address was given twice over a restart")
	}
	if err := s.stop(); err != nil {
		t.Errorf("stopped by SIGTERM: %v\n%s", err, s.output())
	}
	s, err = start(dir)
	if err != nil {
		t.Fatal(err)
	}
}

func TestStartFaultsSayWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	free := func() uint16 {
		p, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		return uint16(p)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		config controlplane.Config
		want   string
	}{
		{"the port is taken", controlplane.Config{DataDir: t.TempDir(), SecurePort: port}, "is already taken"},
		{"the data directory is a file", controlplane.Config{DataDir: file, SecurePort: free()}, "cannot be used, choose another one"},
		{"the store is in use", controlplane.Config{DataDir: shared.dir, SecurePort: free(), KubeconfigOut: filepath.Join(t.TempDir(), "k")}, "another process uses this store"},
		{"the configuration is wrong", controlplane.Config{DataDir: t.TempDir(), ClusterDomain: "A B"}, "cluster domain"},
	} {
		c.config.BindAddress, c.config.AdvertiseAddress, c.config.Logger = loopback, loopback, slog.New(slog.DiscardHandler)
		err := controlplane.Run(context.Background(), c.config)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
