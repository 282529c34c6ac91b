// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// authority makes certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T, dir string) *authority {
	a := &authority{t: t, dir: dir}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.write("ca.crt", "CERTIFICATE", der)
	return a
}

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) issue(file, cn, org string, names ...string) {
	a.t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn, Organization: []string{org}}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(file+".crt", "CERTIFICATE", der)
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(file+".key", "EC PRIVATE KEY", keyDER)
}

func (a *authority) config(host, file string) *rest.Config {
	return &rest.Config{Host: "https://" + host, TLSClientConfig: rest.TLSClientConfig{
		CAFile: filepath.Join(a.dir, "ca.crt"), CertFile: filepath.Join(a.dir, file+".crt"), KeyFile: filepath.Join(a.dir, file+".key"),
	}}
}

func TestKubeletAPI(t *testing.T) {
	n := newNode(t)
	ca := newAuthority(t, n.cfg.Credentials)
	ca.issue("kubelet", "system:node:node1", "system:nodes")
	ca.issue("admin", "kube-apiserver-kubelet-client", "system:masters")
	ca.issue("user", "mallory", "users")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.cfg.KubeletPort = uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	n.up()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.agent.serveKubelet(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("kubelet API: %v", err)
		}
	})
	host := fmt.Sprintf("127.0.0.1:%d", n.cfg.KubeletPort)
	pod := testPod("box", shell("main", "echo first; echo second; while read line; do echo got $line; done; sleep 600"))
	pod.Spec.Containers[0].Stdin = true
	n.create(pod)
	n.await("box", "readiness", isReady)
	admin := ca.config(host, "admin")

	get := func(c *rest.Config, path string) (int, string) {
		t.Helper()
		client, err := rest.HTTPClientFor(c)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Get("https://" + host + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	waitFor(t, "server", func() bool { code, _ := get(admin, "/healthz"); return code == http.StatusOK })

	t.Run("only the API server may ask", func(t *testing.T) {
		if code, body := get(ca.config(host, "user"), "/pods"); code != http.StatusForbidden {
			t.Errorf("a user got %d %s", code, body)
		}
		anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		if resp, err := anonymous.Get("https://" + host + "/healthz"); err == nil {
			t.Errorf("nobody got %s", resp.Status)
		}
	})
	t.Run("logs, their end and errors", func(t *testing.T) {
		waitFor(t, "log", func() bool {
			_, body := get(admin, "/containerLogs/default/box/main")
			return body == "first\nsecond\n"
		})
		if _, body := get(admin, "/containerLogs/default/box/main?tailLines=1"); body != "second\n" {
			t.Errorf("tail %q", body)
		}
		for path, want := range map[string]int{"/containerLogs/default/absent/main": 404, "/containerLogs/default/box/other": 400,
			"/containerLogs/default/box/main?previous=true": 400, "/containerLogs/default/box/main?tailLines=x": 422} {
			if code, body := get(admin, path); code != want {
				t.Errorf("%s: %d %s", path, code, body)
			}
		}
	})
	// SPDY only: the API server translates what clients send by WebSocket.
	t.Run("exec", func(t *testing.T) {
		u, _ := url.Parse("https://" + host + "/exec/default/box/main?input=1&output=1&error=1&command=sh&command=-c&command=" + url.QueryEscape("cat; echo err >&2; exit 5"))
		exec, err := remotecommand.NewSPDYExecutor(admin, "POST", u)
		if err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		err = exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &errOut})
		var code utilexec.CodeExitError
		if !errors.As(err, &code) || code.Code != 5 || out.String() != "typed" || errOut.String() != "err\n" {
			t.Errorf("%v, out %q, err %q", err, out.String(), errOut.String())
		}
	})
	t.Run("attach feeds and follows the container", func(t *testing.T) {
		u, _ := url.Parse("https://" + host + "/attach/default/box/main?input=1&output=1")
		exec, err := remotecommand.NewSPDYExecutor(admin, "POST", u)
		if err != nil {
			t.Fatal(err)
		}
		in, typed := io.Pipe()
		seen, out := io.Pipe()
		attach, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- exec.StreamWithContext(attach, remotecommand.StreamOptions{Stdin: in, Stdout: out}) }()
		go func() {
			for attach.Err() == nil {
				// The stream may attach after a line has been answered; later ones are seen.
				_, _ = typed.Write([]byte("ping\n"))
				time.Sleep(20 * time.Millisecond)
			}
		}()
		buf := make([]byte, 9)
		if _, err := io.ReadFull(seen, buf); err != nil || string(buf) != "got ping\n" {
			t.Errorf("read %q, %v", buf, err)
		}
		stop()
		seen.Close()
		typed.Close()
		<-ended
	})
	t.Run("port-forward reaches a port inside the pod's namespace", func(t *testing.T) { forward(t, n, admin, host) })
}

// forward wants a connection to a listener: a client gives up all forwarding once one of its connections was refused.
func forward(t *testing.T, n *node, admin *rest.Config, host string) {
	c, _ := n.agent.worker("box-uid").ask("main")
	run := func(script string) (int, string, error) {
		return n.agent.execOutput(context.Background(), c.ID, []string{"sh", "-c", script})
	}
	// The first answers once its input has ended, the second hangs up on whatever it is told.
	if code, out, err := run(`(nc -ll -p 8080 -e sh -c 'read line; cat; echo "got $line"' & nc -ll -p 8081 -e true &) >/dev/null 2>&1`); err != nil || code != 0 {
		t.Fatalf("no listener in the pod: %d %s %v", code, out, err)
	}
	waitFor(t, "listeners", func() bool {
		_, out, err := run("cat /proc/net/tcp /proc/net/tcp6")
		return err == nil && strings.Contains(out, ":1F90 ") && strings.Contains(out, ":1F91 ")
	})
	transport, upgrader, err := spdy.RoundTripperFor(admin)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse("https://" + host + "/portForward/default/box")
	ready, stop := make(chan struct{}), make(chan struct{})
	fw, err := portforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"127.0.0.1"}, []string{"0:8080", "0:8081"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fw.ForwardPorts() }()
	defer func() { close(stop); <-ended }()
	<-ready
	ports, err := fw.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := converse(t, ports[0].Local, "question\n"); got != "got question\n" {
			t.Fatalf("after the end of input the pod answered %q", got)
		}
		// Much more than fits into buffers: the pod's end is gone while the client still sends.
		converse(t, ports[1].Local, strings.Repeat("x", 4<<20))
	}
}

// converse sends text, ends its side of the connection and returns all that comes back.
func converse(t *testing.T, port uint16, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	// Whoever hangs up early fails the write; what was answered until then counts.
	_, _ = io.WriteString(conn, text)
	_ = conn.(*net.TCPConn).CloseWrite()
	got, _ := io.ReadAll(conn)
	return string(got)
}
