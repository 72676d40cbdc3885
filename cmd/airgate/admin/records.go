package admin

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"airgate/accounting/report"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// freshness is how long an answer waits for records on their way to the
// source: who asks about a call that has just ended finds it.
const freshness = time.Second

// source is the Source, with what was written before the call if it can be had
// in time.
func (a *API) source(ctx context.Context) report.Source {
	if a.cfg.Fresh != nil {
		ctx, cancel := context.WithTimeout(ctx, freshness)
		defer cancel()
		_ = a.cfg.Fresh(ctx) // a source that lags is told by a metric
	}
	return a.cfg.Source
}

func (a *API) requests(w http.ResponseWriter, r *http.Request) {
	if n, ok := limitOf(w, r); ok {
		out, err := a.source(r.Context()).Requests(r.Context(), n, r.URL.Query().Get("before"))
		answer(w, r, out, err)
	}
}

func (a *API) request(w http.ResponseWriter, r *http.Request) {
	out, err := a.source(r.Context()).Request(r.Context(), r.PathValue("id"))
	answer(w, r, out, err)
}

func (a *API) denials(w http.ResponseWriter, r *http.Request) {
	if n, ok := limitOf(w, r); ok {
		out, err := a.source(r.Context()).Denials(r.Context(), n)
		answer(w, r, out, err)
	}
}

func (a *API) audit(w http.ResponseWriter, r *http.Request) {
	n, ok := limitOf(w, r)
	if !ok {
		return
	}
	q, err := ParseAudit(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	q.Limit = n
	out, err := a.source(r.Context()).Audit(r.Context(), q)
	answer(w, r, out, err)
}

func (a *API) usage(w http.ResponseWriter, r *http.Request) {
	q, err := ParseUsage(r.URL.Query(), time.Now())
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	source := a.source(r.Context())
	out, err := source.Usage(r.Context(), report.UsageQuery{By: q.By, From: q.Span.From, To: q.Span.To})
	if err == nil && q.Before != (Span{}) {
		var before report.Usage
		if before, err = source.Usage(r.Context(), report.UsageQuery{By: q.By, From: q.Before.From, To: q.Before.To}); err == nil {
			out, err = out.Compare(before)
		}
	}
	answer(w, r, out, err)
}

func limitOf(w http.ResponseWriter, r *http.Request) (int, bool) {
	n, err := ParseLimit(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
	}
	return n, err == nil
}

// answer writes a report in the form asked for: JSON unless ?output says table
// or csv, which are for the command line.
func answer(w http.ResponseWriter, r *http.Request, rep report.Report, err error) {
	format := report.JSON
	if o := r.URL.Query().Get("output"); o != "" && err == nil {
		if format, err = report.ParseFormat(o); err != nil {
			fail(w, http.StatusBadRequest, "bad_request", "output: "+err.Error())
			return
		}
	}
	var body bytes.Buffer
	if err == nil {
		err = report.Write(&body, format, rep)
	}
	switch {
	case err == nil:
	case errors.Is(err, report.ErrNotFound):
		fail(w, http.StatusNotFound, "not_found", err.Error())
		return
	case errors.Is(err, report.ErrBadCursor):
		fail(w, http.StatusBadRequest, "bad_request", "before: "+err.Error())
		return
	case errors.Is(err, context.Canceled): // nobody reads
		return
	default:
		fail(w, http.StatusInternalServerError, "internal", "read records: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", map[report.Format]string{
		report.JSON: "application/json", report.CSV: "text/csv; charset=utf-8", report.Table: "text/plain; charset=utf-8",
	}[format])
	_, _ = w.Write(body.Bytes())
}
