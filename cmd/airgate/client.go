package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// reader is how the reading commands get an object of the JSON API: from a
// running airgate, or from a data directory in the same words.
type reader struct {
	flags   *flags
	server  string
	offline bool
	journal bool  // offline, the journal alone can tell what is asked for, if need be
	lacking error // why the journal alone told it
	alone   bool  // others count on the same quota store, which was not asked
	output  format

	patience time.Duration                                               // until when an answer is waited for; 0 = 30 s
	hint     string                                                      // what else to try where no server answers
	api      func(context.Context, *flags) (http.Handler, func(), error) // offline; nil = offlineAPI
}

// add gives cmd the flags; formats are those of -o.
func (r *reader) add(cmd *cobra.Command, f *flags, formats ...string) {
	r.flags = f
	cmd.Flags().StringVar(&r.server, "server", "http://"+defaultAdmin, "admin address of a running airgate")
	r.output.add(cmd, formats...)
}

// addOffline is for what a data directory can tell, too.
func (r *reader) addOffline(cmd *cobra.Command) {
	r.hint = ", --offline reads the data directory"
	cmd.Flags().BoolVar(&r.offline, "offline", false, "read --data and --config instead of asking a running airgate")
}

// maxAnswer is more than a thousand requests with all their fields.
const maxAnswer = 64 << 20

// get fetches path, reads it into out unless that is nil, and returns the raw
// answer beside it.
func (r *reader) get(ctx context.Context, path string, out any) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody)
	if err != nil {
		return nil, err
	}
	return r.do(req, out)
}

// apiError is the API's error object.
type apiError struct{ Code, Message string }

func (e *apiError) Error() string { return e.Message }

// do sends a request, whose URL is a path, and reads the answer as get does.
func (r *reader) do(req *http.Request, out any) ([]byte, error) {
	client, base := &http.Client{Timeout: cmp.Or(r.patience, 30*time.Second)}, strings.TrimSuffix(r.server, "/")
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	if r.offline {
		api := r.api
		if api == nil {
			api = r.readOffline
		}
		h, closeAll, err := api(req.Context(), r.flags)
		if err != nil {
			return nil, err
		}
		defer closeAll()
		client.Transport, base = inProcess{h}, "http://localhost"
	}
	at, err := url.Parse(base + req.URL.RequestURI())
	if err != nil {
		return nil, usageFault(fmt.Errorf("--server: %w", err))
	}
	req.URL, req.Host = at, at.Host
	res, err := client.Do(req)
	if err != nil {
		return nil, unreachable(fmt.Errorf("%w: is airgate running? --server names another address%s", err, r.hint))
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, unreachable(fmt.Errorf("read the answer of %s: %w", base, err))
	}
	if res.StatusCode != http.StatusOK {
		var fault struct {
			Error apiError `json:"error"`
		}
		if json.Unmarshal(body, &fault) == nil && fault.Error.Message != "" {
			return nil, &fault.Error
		}
		return nil, fmt.Errorf("%s answered with status %d: is it airgate's admin address?", base, res.StatusCode)
	}
	if out == nil {
		return body, nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w: is it airgate's admin address?", base, err)
	}
	return body, nil
}

// readOffline is offlineAPI; what it does without is kept for sayScope.
func (r *reader) readOffline(ctx context.Context, f *flags) (http.Handler, func(), error) {
	var without func(error)
	if r.journal {
		without = func(err error) { r.lacking = err }
	}
	return offlineAPI(ctx, f, without, func() { r.alone = true })
}

// print writes the report at path in the format of -o.
func (r *reader) print(ctx context.Context, t *terminal, path string, q url.Values) error {
	q.Set("output", r.output.text)
	body, err := r.get(ctx, path+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	r.sayScope(t)
	if r.output.text != "json" && bytes.Count(body, []byte("\n")) == 1 {
		t.say("no records") // under the heading
	}
	_, err = t.out.Write(body)
	return err
}

// sayScope tells people whose figures they see, and everyone what they lack.
func (r *reader) sayScope(t *terminal) {
	if r.lacking != nil {
		t.say("airgate: the journal alone was read; what is missing in it and only the database has is not counted: %v", r.lacking)
	}
	if r.alone {
		t.say("airgate: quota is shared: these are the calls of one airgate alone; a running one (--server) knows what all have spent")
	}
	switch {
	case r.output.text != "table":
	case r.offline:
		t.say("scope: the airgate whose data is in %s", r.flags.data)
	default:
		t.say("scope: the airgate at %s", r.server)
	}
}

// inProcess is a transport to a handler of this process: the offline commands
// speak the same API as the others, without a listener.
type inProcess struct{ http.Handler }

// RoundTrip lets the handler answer.
func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &buffered{header: http.Header{}, status: http.StatusOK}
	p.ServeHTTP(w, r)
	return &http.Response{
		StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.body), Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

type buffered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (b *buffered) Header() http.Header         { return b.header }
func (b *buffered) WriteHeader(status int)      { b.status = status }
func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }
