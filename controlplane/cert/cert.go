// SPDX-License-Identifier: Apache-2.0

// Package cert is the cluster's certificate authority: it makes the CA at first start and issues the
// certificates of the server, its clients and the nodes. Keys are ECDSA P-256, which takes a millisecond to make.
package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/util/keyutil"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced when the server starts.
	renewBefore = leafLifetime / 3
	// backdate tolerates clocks that run behind.
	backdate = 5 * time.Minute

	// FrontProxyName is the only client name from which the request headers of the aggregator are believed.
	FrontProxyName = "front-proxy-client"
	// KubeletClientName is whom node agents see when the API server calls them.
	KubeletClientName = "kube-apiserver-kubelet-client"

	mastersGroup = "system:masters"
)

// Authority signs certificates with the cluster's CA. It is safe for concurrent use, also by several processes.
type Authority struct {
	dir  string
	ca   *x509.Certificate
	key  crypto.Signer
	pem  []byte
	sign crypto.Signer
	now  func() time.Time
}

// Pair names the files of a certificate and its key.
type Pair struct{ CertFile, KeyFile string }

// Open reads the authority in dir, and makes CA and ServiceAccount signing key when dir holds none.
func Open(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the pki directory: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	a := &Authority{dir: dir, now: time.Now}
	if err := a.loadOrMakeCA(); err != nil {
		return nil, err
	}
	if a.sign, err = loadOrMakeKey(filepath.Join(dir, "sa.key")); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Authority) loadOrMakeCA() error {
	certFile, keyFile := filepath.Join(a.dir, "ca.crt"), filepath.Join(a.dir, "ca.key")
	certPEM, err := os.ReadFile(certFile)
	if errors.Is(err, os.ErrNotExist) {
		certPEM, err = a.makeCA(certFile, keyFile)
	}
	if err != nil {
		return fmt.Errorf("cluster CA: %w", err)
	}
	if a.ca, err = parseCertificate(certPEM); err != nil {
		return fmt.Errorf("%s: %w", certFile, err)
	}
	if a.key, err = readKey(keyFile); err != nil {
		return fmt.Errorf("%s exists but its key cannot be used: %w", certFile, err)
	}
	if public, ok := a.ca.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(a.key.Public()) {
		return fmt.Errorf("%s does not belong to %s", keyFile, certFile)
	}
	a.pem = certPEM
	return nil
}

// makeCA writes the key first, so that a crash in between leaves no certificate without its key.
func (a *Authority) makeCA(certFile, keyFile string) ([]byte, error) {
	key, err := loadOrMakeKey(keyFile)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "kubernetes"},
		DNSNames:              []string{"kubernetes"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certPEM := encodeCertificate(der)
	return certPEM, writeFile(certFile, certPEM, 0o644)
}

// CA returns the cluster's CA certificate as PEM.
func (a *Authority) CA() []byte { return slices.Clone(a.pem) }

// CAFile is the file that holds CA.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, "ca.crt") }

// SigningKey signs ServiceAccount tokens.
func (a *Authority) SigningKey() crypto.Signer { return a.sign }

// Serving issues the API server's certificate for the given names and addresses, or keeps one that covers them.
func (a *Authority) Serving(names []string, addrs []netip.Addr) (Pair, error) {
	return a.ensure(a.dir, "apiserver", request{
		subject: pkix.Name{CommonName: "kube-apiserver"}, names: names, addrs: addrs, usage: x509.ExtKeyUsageServerAuth,
	})
}

// Admin issues the certificate of the cluster's first administrator.
func (a *Authority) Admin() (Pair, error) {
	return a.client("admin", pkix.Name{CommonName: "kubernetes-admin", Organization: []string{mastersGroup}})
}

// FrontProxy issues the aggregator's certificate for calls to aggregated API servers.
func (a *Authority) FrontProxy() (Pair, error) {
	return a.client("front-proxy-client", pkix.Name{CommonName: FrontProxyName})
}

// KubeletClient issues the API server's certificate for calls to node agents.
func (a *Authority) KubeletClient() (Pair, error) {
	return a.client("apiserver-kubelet-client", pkix.Name{CommonName: KubeletClientName, Organization: []string{mastersGroup}})
}

func (a *Authority) client(file string, subject pkix.Name) (Pair, error) {
	return a.ensure(a.dir, file, request{subject: subject, usage: x509.ExtKeyUsageClientAuth})
}

type request struct {
	subject pkix.Name
	names   []string
	addrs   []netip.Addr
	usage   x509.ExtKeyUsage
}

// ensure keeps the pair in dir when it still serves the request, and replaces it otherwise.
func (a *Authority) ensure(dir, file string, r request) (Pair, error) {
	pair := Pair{CertFile: filepath.Join(dir, file+".crt"), KeyFile: filepath.Join(dir, file+".key")}
	if a.usable(pair, r) {
		return pair, nil
	}
	certPEM, keyPEM, err := a.issue(r)
	if err != nil {
		return Pair{}, fmt.Errorf("issue %s: %w", file, err)
	}
	if err := writeFile(pair.KeyFile, keyPEM, 0o600); err != nil {
		return Pair{}, err
	}
	if err := writeFile(pair.CertFile, certPEM, 0o644); err != nil {
		return Pair{}, err
	}
	return pair, nil
}

// usable is false for whatever is missing, damaged, from another CA, near its end or made for other names.
func (a *Authority) usable(pair Pair, r request) bool {
	certPEM, err := os.ReadFile(pair.CertFile)
	if err != nil {
		return false
	}
	c, err := parseCertificate(certPEM)
	if err != nil || c.CheckSignatureFrom(a.ca) != nil || a.now().After(c.NotAfter.Add(-renewBefore)) {
		return false
	}
	key, err := readKey(pair.KeyFile)
	if err != nil {
		return false
	}
	public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) || c.Subject.CommonName != r.subject.CommonName ||
		!slices.Equal(c.Subject.Organization, r.subject.Organization) {
		return false
	}
	for _, name := range r.names {
		if !slices.Contains(c.DNSNames, name) {
			return false
		}
	}
	for _, addr := range r.addrs {
		if c.VerifyHostname(addr.String()) != nil {
			return false
		}
	}
	return true
}

func (a *Authority) issue(r request) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	now := a.now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      r.subject,
		DNSNames:     r.names,
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(leafLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{r.usage},
	}
	for _, addr := range r.addrs {
		template.IPAddresses = append(template.IPAddresses, addr.Unmap().AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.ca, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = keyutil.MarshalPrivateKeyToPEM(key)
	return encodeCertificate(der), keyPEM, err
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("holds no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func loadOrMakeKey(file string) (crypto.Signer, error) {
	key, err := readKey(file)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(made)
	if err != nil {
		return nil, err
	}
	return made, writeFile(file, keyPEM, 0o600)
}

func readKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: %T cannot sign", file, key)
	}
	return signer, nil
}

// lock keeps two processes from making two CAs in one directory.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the pki directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the pki directory: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing drops the lock
}
