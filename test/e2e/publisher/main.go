// Command publisher is what a pod of the tests runs instead of a shell, which images of the tests do not have: it logs in
// with the token that the kubelet projected into the pod, pushes a chart, pulls it, and compares.
//
//	publisher HELM FOLDER ARCHIVE OCIURL
//
// FOLDER holds token and ca.crt. What helm says goes to standard error. Called as "helm", it is the helm that is named in the
// environment variable HELM.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if filepath.Base(os.Args[0]) == "helm" {
		fmt.Fprintln(os.Stderr, "publisher:", syscall.Exec(os.Getenv("HELM"), os.Args, os.Environ())) // It returns only with an error.
		os.Exit(1)
	}
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: publisher HELM FOLDER ARCHIVE OCIURL")
		os.Exit(2)
	}
	if err := publish(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "publisher:", err)
		os.Exit(1)
	}
	fmt.Println("published")
}

func publish(helm, folder, archive, url string) error {
	ca := "--ca-file=" + filepath.Join(folder, "ca.crt")
	token, err := os.Open(filepath.Join(folder, "token"))
	if err != nil {
		return err
	}
	defer token.Close()
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "oci://"), "/")
	name, version, found := strings.Cut(strings.TrimSuffix(filepath.Base(archive), ".tgz"), "-")
	if !found {
		return fmt.Errorf("%s is not NAME-VERSION.tgz", archive)
	}
	out, err := os.MkdirTemp("", "pulled-")
	if err != nil {
		return err
	}
	for _, step := range []struct {
		stdin     io.Reader
		arguments []string
	}{
		{token, []string{"registry", "login", host, ca, "--username=chartroom", "--password-stdin"}},
		{nil, []string{"push", archive, url, ca}},
		{nil, []string{"pull", url + "/" + name, "--version=" + version, ca, "--destination=" + out}},
	} {
		command := exec.Command(helm, step.arguments...)
		command.Stdin, command.Stdout, command.Stderr = step.stdin, os.Stderr, os.Stderr
		if err := command.Run(); err != nil {
			return fmt.Errorf("helm %s: %w", step.arguments[0], err)
		}
	}
	pushed, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	pulled, err := os.ReadFile(filepath.Join(out, filepath.Base(archive)))
	if err == nil && !bytes.Equal(pushed, pulled) {
		err = errors.New("what was pulled is not what was pushed")
	}
	return err
}
