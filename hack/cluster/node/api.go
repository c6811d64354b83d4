package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// newHTTPClient speaks to one of the node's servers with a certificate of the node. Proxies that the environment names
// are for the world outside.
func newHTTPClient(authority, certificate string) (*http.Client, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	settings.RootCAs = x509.NewCertPool()
	settings.RootCAs.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(certificate+".crt", certificate+".key")
	if err != nil {
		return nil, err
	}
	settings.Certificates = []tls.Certificate{pair}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: settings}}, nil
}

// api is the API server, as the administrator sees it.
type api struct {
	base   string
	client *http.Client
}

func newAPI(place layout, chosen *settings) (*api, error) {
	client, err := newHTTPClient(place.in("pki", "ca.crt"), place.in("pki", "admin"))
	if err != nil {
		return nil, err
	}
	return &api{"https://" + net.JoinHostPort(chosen.Address, fmt.Sprint(chosen.Ports["api"])), client}, nil
}

// do sends one request and reads a JSON answer into result, where one is wanted.
func (a *api) do(ctx context.Context, method, path string, body []byte, result any) error {
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, response.Status, answer)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}

// nodeReady is nil when the node's kubelet says that pods can run.
func (a *api) nodeReady(ctx context.Context) error {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := a.do(ctx, http.MethodGet, "/api/v1/nodes/"+nodeName, nil, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return fmt.Errorf("the node is not ready: %s", condition.Message)
		}
	}
	return errors.New("the node says nothing of itself yet")
}

// pod is what we need to know of one.
type pod struct {
	Metadata struct{ Name, Namespace string }
	Status   struct{ Phase string }
}

// livePods are those that may have running containers.
func (a *api) livePods(ctx context.Context) ([]pod, error) {
	var list struct{ Items []pod }
	if err := a.do(ctx, http.MethodGet, "/api/v1/pods", nil, &list); err != nil {
		return nil, err
	}
	var live []pod
	for _, item := range list.Items {
		if item.Status.Phase != "Succeeded" && item.Status.Phase != "Failed" {
			live = append(live, item)
		}
	}
	return live, nil
}

// deletePod gives the containers one second.
func (a *api) deletePod(ctx context.Context, item pod) error {
	path := "/api/v1/namespaces/" + item.Metadata.Namespace + "/pods/" + item.Metadata.Name
	return a.do(ctx, http.MethodDelete, path, []byte(`{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":1}`), nil)
}
