// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skep.dev/skep/controlplane"
)

// The test binary runs itself again as the server when these are set.
const (
	dirVariable  = "SKEP_TEST_API_DIR"
	portVariable = "SKEP_TEST_API_PORT"
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// shared is the server that most tests use, each in its own namespace.
var shared *server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(kubectlVariable) != "" {
		return runKubectl()
	}
	if dir := os.Getenv(dirVariable); dir != "" {
		return serve(dir, os.Getenv(portVariable))
	}
	if os.Getuid() == 0 && os.Getenv(networkVariable) == "" {
		return inOwnNetwork()
	}
	if os.Getenv(networkVariable) != "" {
		if err := setUpNetwork(); err != nil {
			fmt.Fprintln(os.Stderr, "set up the network:", err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "skep-api-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if shared, err = start(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer shared.kill()
	return m.Run()
}

func serve(dir, port string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	n, err := strconv.ParseUint(port, 10, 16)
	if err == nil {
		err = controlplane.Run(ctx, controlplane.Config{
			DataDir: dir, BindAddress: loopback, AdvertiseAddress: loopback, SecurePort: uint16(n),
			Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	return 0
}

// server is a control plane in a process of its own.
type server struct {
	dir    string
	port   int
	cmd    *exec.Cmd
	config *rest.Config
	client *kubernetes.Clientset

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

func (s *server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *server) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

const startLimit = 60 * time.Second

// start runs a server on dir and waits until it is ready.
func start(dir string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, port: port}
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), dirVariable+"="+dir, portVariable+"="+strconv.Itoa(port))
	s.cmd.Stdout, s.cmd.Stderr = s, s
	// It ends with this process whatever happens to it.
	s.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := s.connect(); err != nil {
		s.kill()
		return nil, fmt.Errorf("%w\n%s", err, s.output())
	}
	return s, nil
}

func (s *server) connect() error {
	deadline := time.Now().Add(startLimit)
	for {
		err := s.ready()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond) // polls another process, which offers nothing to wait on
	}
}

func (s *server) ready() error {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		return err
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(context.Background()); err != nil {
		return err
	}
	s.config, s.client = config, client
	return nil
}

func (s *server) kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

// kill ends the server the hard way.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// stop ends the server as a supervisor would, and returns how it took that.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// namespace makes a namespace for the test and deletes it after.
func namespace(t *testing.T) string {
	t.Helper()
	name := "t-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	if len(name) > 60 {
		name = strings.TrimRight(name[:60], "-")
	}
	ns := object("v1", "Namespace", "", name)
	post(t, "/api/v1/namespaces", ns, http.StatusCreated)
	t.Cleanup(func() {
		_ = shared.client.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	return name
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come true", what)
		}
		time.Sleep(20 * time.Millisecond) // polls another process
	}
}
