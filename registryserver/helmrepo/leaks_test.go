package helmrepo_test

import (
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
