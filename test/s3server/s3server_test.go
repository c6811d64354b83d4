package s3server_test

import (
	"net/http"
	"testing"

	"github.com/chartroom-dev/chartroom/test/s3server"
)

func TestServerSurvivesKill(t *testing.T) {
	s := s3server.Start(t)
	s.NewBucket(t, "charts")
	s.Kill()
	if _, err := http.Get(s.Endpoint + "/healthz"); err == nil || s.PID() != 0 {
		t.Error("it answers although it was killed")
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(s.Endpoint + "/charts")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	// The bucket is there, and not for everybody.
	if answer.StatusCode != http.StatusForbidden || s.PID() == 0 {
		t.Error(answer.Status)
	}
}
