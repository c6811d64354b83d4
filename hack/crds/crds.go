// Package crds imports the kinds of others that the pages show examples of, so that what they take can be tried.
package crds

import (
	_ "github.com/fluxcd/helm-controller/api/v2"   // HelmRelease.
	_ "github.com/fluxcd/source-controller/api/v1" // OCIRepository.
)
