package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime of every certificate. A node of tests is thrown away long before.
const lifetime = 5 * 365 * 24 * time.Hour

// authority signs certificates. etcd has one of its own: who may speak to the API server may not speak to etcd.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// identity is what one certificate says of its holder.
type identity struct {
	file          string
	user          string
	organizations []string
	hosts         []string // empty for a client
	etcd          bool     // signed by etcd's authority
}

// identities are all the certificates of one node.
func identities(chosen *settings) []identity {
	return []identity{
		{file: "api-server", user: "kube-apiserver", hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			chosen.Address, chosen.APIServer,
		}},
		{file: "api-server-kubelet-client", user: "kube-apiserver-kubelet-client", organizations: []string{"system:masters"}},
		{file: "kubelet-server", user: nodeName, hosts: []string{nodeName, chosen.Address}},
		{file: "kube-controller-manager-server", user: "kube-controller-manager", hosts: []string{"127.0.0.1"}},
		{file: "kube-scheduler-server", user: "kube-scheduler", hosts: []string{"127.0.0.1"}},
		{file: "admin", user: "chartroom-admin", organizations: []string{"system:masters"}},
		{file: "kubelet", user: "system:node:" + nodeName, organizations: []string{"system:nodes"}},
		{file: "kube-controller-manager", user: "system:kube-controller-manager"},
		{file: "kube-scheduler", user: "system:kube-scheduler"},
		{file: "kube-proxy", user: "system:kube-proxy"},
		{file: "coredns", user: "chartroom:coredns"},
		{file: "provisioner", user: "chartroom:provisioner"},
		{file: "etcd", user: "etcd", hosts: []string{"127.0.0.1"}, etcd: true},
		{file: "etcd-client", user: "kube-apiserver", etcd: true},
	}
}

// makeCertificates writes a new set of keys and certificates into a folder, all or nothing.
func makeCertificates(folder string, chosen *settings) error {
	unfinished := folder + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	cluster, err := newAuthority(unfinished, "ca")
	if err != nil {
		return err
	}
	store, err := newAuthority(unfinished, "etcd-ca")
	if err != nil {
		return err
	}
	for number, holder := range identities(chosen) {
		signer := cluster
		if holder.etcd {
			signer = store
		}
		if err := signer.issue(unfinished, int64(number)+2, holder); err != nil {
			return fmt.Errorf("make the certificate of %s: %w", holder.file, err)
		}
	}
	tokens, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(unfinished, "service-accounts"), tokens); err != nil {
		return err
	}
	return os.Rename(unfinished, folder)
}

func newAuthority(folder, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "chartroom-node-" + name},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the authority %s: %w", name, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key}, writePair(filepath.Join(folder, name), der, key)
}

// issue writes the holder's key and certificate.
func (a *authority) issue(folder string, serial int64, holder identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: holder.user, Organization: holder.organizations},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(lifetime - time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(holder.hosts) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if holder.etcd {
		// etcd's members are clients of each other with their server certificates.
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	for _, host := range holder.hosts {
		if address := net.ParseIP(host); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return writePair(filepath.Join(folder, holder.file), der, key)
}

func writePair(path string, der []byte, key any) error {
	if err := writeFile(path+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return err
	}
	return writeKey(path, key)
}

func writeKey(path string, key any) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
