// SPDX-License-Identifier: Apache-2.0

package cert

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// IssueNode writes what the agent of the named node needs into dir: ca.crt, kubeconfig (client certificate of
// system:node:NAME), kubelet.crt and kubelet.key (serving certificate for name and addrs). What is already
// there and still good is kept.
func (a *Authority) IssueNode(dir, name string, addrs []netip.Addr, serverURL string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the node's credential directory: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "ca.crt"), a.pem, 0o644); err != nil {
		return err
	}
	user := "system:node:" + name
	client, err := a.ensure(dir, "kubelet-client", request{
		subject: pkix.Name{CommonName: user, Organization: []string{"system:nodes"}}, usage: x509.ExtKeyUsageClientAuth,
	})
	if err != nil {
		return err
	}
	_, err = a.ensure(dir, "kubelet", request{
		subject: pkix.Name{CommonName: user, Organization: []string{"system:nodes"}},
		names:   []string{name, "localhost"}, addrs: addrs, usage: x509.ExtKeyUsageServerAuth,
	})
	if err != nil {
		return err
	}
	return a.WriteKubeconfig(filepath.Join(dir, "kubeconfig"), "skep", user, serverURL, client)
}

// WriteKubeconfig writes a self-contained kubeconfig whose only context has the given name.
func (a *Authority) WriteKubeconfig(file, context, user, serverURL string, client Pair) error {
	certPEM, err := os.ReadFile(client.CertFile)
	if err != nil {
		return fmt.Errorf("read client certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(client.KeyFile)
	if err != nil {
		return fmt.Errorf("read client key: %w", err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[context] = &clientcmdapi.Cluster{Server: serverURL, CertificateAuthorityData: a.pem}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM}
	config.Contexts[context] = &clientcmdapi.Context{Cluster: context, AuthInfo: user}
	config.CurrentContext = context
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("create the kubeconfig's directory: %w", err)
	}
	return writeFile(file, data, 0o600)
}
