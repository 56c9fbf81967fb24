delete from "pgqueue".subscription_release where id = %(id)s
