// SPDX-License-Identifier: Apache-2.0

package cert

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func leaf(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCertificate(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheCAIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first, second := open(t, dir), open(t, dir)
	if !bytes.Equal(first.CA(), second.CA()) {
		t.Fatal("the second Open made another CA")
	}
	for _, key := range []string{"ca.key", "sa.key"} {
		info, err := os.Stat(filepath.Join(dir, key))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", key, info.Mode())
		}
	}
}

func TestAnotherKeyBesideTheCAIsRefused(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	open(t, dir)
	open(t, other)
	key, err := os.ReadFile(filepath.Join(other, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Fatal("a CA with a foreign key was opened")
	}
}

func TestServingCertificateFollowsItsNames(t *testing.T) {
	a := open(t, t.TempDir())
	addr := netip.MustParseAddr("10.96.0.1")
	pair, err := a.Serving([]string{"localhost"}, []netip.Addr{addr})
	if err != nil {
		t.Fatal(err)
	}
	before := leaf(t, pair.CertFile)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.CA())
	if _, err := before.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.96.0.1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Serving([]string{"localhost"}, []netip.Addr{addr}); err != nil {
		t.Fatal(err)
	}
	if !leaf(t, pair.CertFile).Equal(before) {
		t.Error("a good certificate was replaced")
	}
	if _, err := a.Serving([]string{"localhost", "api.example"}, []netip.Addr{addr}); err != nil {
		t.Fatal(err)
	}
	if err := leaf(t, pair.CertFile).VerifyHostname("api.example"); err != nil {
		t.Error(err)
	}
}

func TestACertificateNearItsEndIsReplaced(t *testing.T) {
	a := open(t, t.TempDir())
	pair, err := a.Admin()
	if err != nil {
		t.Fatal(err)
	}
	before := leaf(t, pair.CertFile)
	a.now = func() time.Time { return time.Now().Add(leafLifetime - renewBefore + time.Hour) }
	if _, err := a.Admin(); err != nil {
		t.Fatal(err)
	}
	if leaf(t, pair.CertFile).Equal(before) {
		t.Error("kept a certificate near its end")
	}
}

func TestNodeCredentials(t *testing.T) {
	a := open(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "node")
	addr := netip.MustParseAddr("fd00:172:29::2")
	if err := a.IssueNode(dir, "n1", []netip.Addr{addr}, "https://172.29.0.2:6443"); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := parseCertificate(config.CertData)
	if err != nil {
		t.Fatal(err)
	}
	if got := client.Subject.CommonName + " " + client.Subject.Organization[0]; got != "system:node:n1 system:nodes" {
		t.Errorf("client is %q", got)
	}
	for _, host := range []string{"n1", addr.String()} {
		if err := leaf(t, filepath.Join(dir, "kubelet.crt")).VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if config.Host != "https://172.29.0.2:6443" || !bytes.Equal(config.CAData, a.CA()) {
		t.Errorf("kubeconfig points at %s", config.Host)
	}
}
