select version_num from "pgqueue".migration
