// Package conformance tests the registry server from outside: with the conformance suite of the OCI Distribution
// Specification, and with clients that others wrote. It builds them from source the first time.
package conformance

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// results are what the suite counts in its report junit.xml.
type results struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Skipped  int `xml:"skipped,attr"`
	Disabled int `xml:"disabled,attr"`
	Suites   []struct {
		Cases []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func TestConformance(t *testing.T) {
	suite := tool(t, "conformance")
	for store, open := range stores {
		for name, c := range map[string]struct {
			environment []string
			bearer      bool
			// disabled are the tests that the version of the specification leaves out: cancelling an upload, for each of two
			// algorithms.
			disabled int
		}{
			"1.1":            {environment: []string{"OCI_VERSION=1.1"}, disabled: 2},
			"dev":            {environment: []string{"OCI_VERSION=dev"}},
			"dev, sparse":    {environment: []string{"OCI_VERSION=dev", "OCI_DATA_SPARSE=true"}},
			"dev, by Bearer": {environment: []string{"OCI_VERSION=dev", "OCI_DATA_SPARSE=true"}, bearer: true},
		} {
			t.Run(store+", "+name, func(t *testing.T) {
				r := start(t, open(t))
				if c.bearer {
					r = byBearer(t, r)
				}
				out := t.TempDir()
				command := exec.Command(suite)
				command.Env = append([]string{
					"PATH=" + os.Getenv("PATH"), "OCI_REGISTRY=" + r.host, "OCI_TLS=disabled", "OCI_RESULTS_DIR=" + out,
					"OCI_REPO1=acme/charts/a", "OCI_REPO2=acme/charts/b", "OCI_USERNAME=chartroom", "OCI_PASSWORD=" + r.token,
				}, c.environment...)
				said, err := command.CombinedOutput()
				if err != nil {
					t.Errorf("the suite ended with %v:\n%s", err, said)
				}
				judge(t, filepath.Join(out, "junit.xml"), c.disabled)
			})
		}
	}
}

func judge(t *testing.T, report string, disabled int) {
	t.Helper()
	content, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var r results
	if err := xml.Unmarshal(content, &r); err != nil {
		t.Fatal(err)
	}
	if r.Failures != 0 || r.Errors != 0 || r.Skipped != 0 || r.Disabled != disabled || r.Tests < 800 {
		t.Errorf("%d tests, %d failures, %d errors, %d skipped, %d disabled; want at least 800 tests, of which %d are disabled",
			r.Tests, r.Failures, r.Errors, r.Skipped, r.Disabled, disabled)
	}
	for _, s := range r.Suites {
		for _, c := range s.Cases {
			if c.Status != "passed" && (c.Status != "skipped" || disabled == 0) {
				t.Errorf("%s: %s", c.Name, c.Status)
			}
		}
	}
}
