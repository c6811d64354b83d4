package registryserver_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/retention"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

func (r *running) about(operator *http.Client) wire.About {
	r.t.Helper()
	answer, err := operator.Get("https://" + r.server.Addresses()["admin"].String() + wire.PathAbout)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	var about wire.About
	if err := json.NewDecoder(answer.Body).Decode(&about); err != nil {
		r.t.Fatal(err)
	}
	return about
}

// The operator is told what will go and when, and then that it has gone.
func TestRetentionIsReported(t *testing.T) {
	t.Parallel()
	for name, dryRun := range map[string]bool{"in force": false, "dry run": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var config registryserver.Config
			r, _ := startOperated(t, func(c *registryserver.Config) { config = *c })
			for _, version := range []string{"1.0.0", "1.0.1", "1.0.2"} {
				r.pushVersion(version)
			}
			again, operator := startOperated(t, func(c *registryserver.Config) {
				c.Storage = config.Storage
				c.Retention = retention.Policy{DryRun: dryRun, Delay: retention.Duration(2 * time.Second), Rules: []retention.Rule{{KeepNewest: 1}}}
			})
			var state *wire.RetentionState
			eventually(t, "a plan is reported", func() bool {
				state = again.about(operator).Retention
				return state != nil
			})
			if state.Planned != 2 || state.Deleted != 0 || len(state.Examples) != 2 || !strings.Contains(state.Examples[0], ":1.0.0 (it is not the newest)") {
				t.Errorf("the plan is %+v", state)
			}
			if dryRun {
				if state.DeletesAfter != nil {
					t.Errorf("a dry run deletes at %s", state.DeletesAfter)
				}
				return
			}
			if state.DeletesAfter == nil || !state.DeletesAfter.Equal(state.PlannedAt.Add(2*time.Second)) {
				t.Errorf("it deletes after %v", state.DeletesAfter)
			}
			eventually(t, "the deletions are reported", func() bool {
				state = again.about(operator).Retention
				return state.Deleted == 2 && state.Planned == 0 && state.Examples == nil
			})
		})
	}
}

// Without a policy there is nothing to report, and with one that cannot be carried out there is why.
func TestRetentionThatFailsIsReported(t *testing.T) {
	t.Parallel()
	r, operator := startOperated(t)
	if state := r.about(operator).Retention; state != nil {
		t.Errorf("without a policy: %+v", state)
	}
	server := s3server.Start(t)
	inS3 := storeInS3(t, server, "charts")
	r, operator = startOperated(t, func(c *registryserver.Config) {
		inS3(c)
		c.Retention = retention.Policy{Delay: retention.Duration(time.Second), Rules: []retention.Rule{{KeepNewest: 1}}}
	})
	eventually(t, "the first run is over", func() bool { return r.about(operator).Retention != nil })
	server.Kill()
	eventually(t, "the problem is reported", func() bool {
		return strings.Contains(r.about(operator).Retention.Problem, "retention cannot do its work")
	})
}
